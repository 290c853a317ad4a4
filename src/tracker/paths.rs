//! Where the bytes of a fid are: its path on a device, and the URL made of it.
//!
//! `http://IP:PORT/devN/A/BBB/CCC/FFFFFFFFFF.fid`: the fid padded to ten digits, A BBB CCC its
//! leading seven. The same path below the tracker's folder is the file itself.

use std::path::{Path, PathBuf};

/// A file id: decimal on the wire, never handed out twice.
pub type Fid = i64;

/// A device id; `devN` is its folder.
pub type Devid = u32;

/// The path of a fid on a device, as in its URL, with the leading slash.
///
/// ```
/// assert_eq!(phylactery::tracker::fid_path(2, 500_054), "/dev2/0/000/500/0000500054.fid");
/// ```
#[must_use]
pub fn fid_path(devid: Devid, fid: Fid) -> String {
    let name = format!("{fid:010}");
    format!(
        "/dev{devid}/{}/{}/{}/{name}.fid",
        &name[..1],
        &name[1..4],
        &name[4..7]
    )
}

/// The folder of a device.
#[must_use]
pub fn device_dir(root: &Path, devid: Devid) -> PathBuf {
    root.join(format!("dev{devid}"))
}

/// The file that holds a fid on a device.
#[must_use]
pub fn fid_file(root: &Path, devid: Devid, fid: Fid) -> PathBuf {
    root.join(&fid_path(devid, fid)[1..])
}

/// Where uploads to a device grow until they are whole. Cleared at start.
///
/// It is inside of the device folder so that the final rename never leaves the file system, and its
/// name begins with a dot, which no URL may.
#[must_use]
pub fn incoming_dir(root: &Path, devid: Devid) -> PathBuf {
    device_dir(root, devid).join(".incoming")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_the_protocol() {
        assert_eq!(fid_path(1, 3), "/dev1/0/000/000/0000000003.fid");
        assert_eq!(fid_path(2, 1_234_567_890), "/dev2/1/234/567/1234567890.fid");
        // Past ten digits the name grows, and the folders are still the leading seven digits.
        assert_eq!(
            fid_path(1, 12_345_678_901),
            "/dev1/1/234/567/12345678901.fid"
        );
        assert_eq!(
            fid_file(Path::new("/srv"), 1, 3),
            Path::new("/srv/dev1/0/000/000/0000000003.fid")
        );
    }
}
