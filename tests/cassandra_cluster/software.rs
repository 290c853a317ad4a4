//! What a node needs to run: Java 17, and Cassandra's jars, fetched once by Maven into `target/cassandra/lib`.
//!
//! Always true: a folder with that name is whole - it is filled aside and renamed, by one process at a time, whichever
//! checkout or test binary came first. Never here: installing anything; what is missing is one line that says how to.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Java and the class path.
#[derive(Clone, Debug)]
pub struct Software {
    /// The `java` of Java 17.
    pub java: PathBuf,
    /// The folder of the jars.
    pub jars: PathBuf,
}

/// The Java that this Cassandra runs on.
const JAVA: &str = "17";
const INSTALL_JAVA: &str =
    "install it (on Debian: apt-get install openjdk-17-jre-headless), or set JAVA_HOME to one";
const INSTALL_MAVEN: &str = "install it (on Debian: apt-get install maven)";

/// The folder with the settings of a node.
pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/cassandra")
}

impl Software {
    /// Finds all of it, and fetches the jars if they are not there. Blocks; the error is the one line that says what is missing.
    pub fn find() -> Result<Software, String> {
        Ok(Software {
            java: java()?,
            jars: jars()?,
        })
    }
}

fn java() -> Result<PathBuf, String> {
    let mut candidates = Vec::new();
    if let Some(home) = std::env::var_os("JAVA_HOME") {
        candidates.push(PathBuf::from(home).join("bin/java"));
    }
    candidates.push(PathBuf::from("java"));
    // Where Debian and Fedora put one that is not the default.
    for folder in fs::read_dir("/usr/lib/jvm").into_iter().flatten().flatten() {
        if folder.file_name().to_string_lossy().contains(JAVA) {
            candidates.push(folder.path().join("bin/java"));
        }
    }
    let mut found = Vec::new();
    for candidate in candidates {
        match version_of(&candidate) {
            Some(version) if version == JAVA => return Ok(candidate),
            Some(version) => found.push(format!("{} is Java {version}", candidate.display())),
            None => {}
        }
    }
    let found = match found.is_empty() {
        true => "there is no java".to_owned(),
        false => found.join(", "),
    };
    Err(format!(
        "the tests on a real Cassandra need Java {JAVA}, and {found}: {INSTALL_JAVA}"
    ))
}

/// The number that `java -version` names: 17 of `openjdk version "17.0.15" 2025-04-15`.
fn version_of(java: &Path) -> Option<String> {
    let said = Command::new(java).arg("-version").output().ok()?;
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    let version = said.split('"').nth(1)?;
    Some(version.split(['.', '-']).next()?.to_owned())
}

fn jars() -> Result<PathBuf, String> {
    let home = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .parent()
        .expect("target/tmp has a parent")
        .join("cassandra");
    fetched(&home, &fixtures().join("pom.xml"))
        .map_err(|why| format!("Cassandra's jars in {}: {why}", home.display()))
}

fn fetched(home: &Path, pom: &Path) -> Result<PathBuf, String> {
    let said = |why: std::io::Error| why.to_string();
    fs::create_dir_all(home).map_err(said)?;
    // Held until this function returns, and by nobody once the process is gone.
    let lock = File::create(home.join("lock")).map_err(said)?;
    lock.lock().map_err(said)?;
    let wanted = fs::read(pom).map_err(said)?;
    let jars = home.join("lib");
    // The pom that they were fetched for lies beside them: another version is fetched anew.
    if fs::read(jars.join("pom.xml")).is_ok_and(|there| there == wanted) {
        return Ok(jars);
    }
    let aside = home.join("lib.new");
    for old in [&aside, &jars] {
        if old.exists() {
            fs::remove_dir_all(old).map_err(said)?;
        }
    }
    eprintln!("fetching Cassandra's jars (67 MB) with Maven, once");
    let fetch = Command::new("mvn")
        .args(["-q", "-B", "-f"])
        .arg(pom)
        .args(["dependency:copy-dependencies", "-DincludeScope=runtime"])
        .arg(format!("-DoutputDirectory={}", aside.display()))
        .output();
    let fetch = match fetch {
        Ok(fetch) => fetch,
        Err(why) if why.kind() == std::io::ErrorKind::NotFound => {
            return Err(format!(
                "there is no mvn to fetch them with: {INSTALL_MAVEN}"
            ));
        }
        Err(why) => return Err(format!("start mvn: {why}")),
    };
    if !fetch.status.success() {
        let said = String::from_utf8_lossy(&fetch.stdout).into_owned();
        let first = said.lines().find(|line| line.contains("ERROR"));
        return Err(format!(
            "mvn could not fetch them: {}",
            first.unwrap_or("it does not say why")
        ));
    }
    fs::write(aside.join("pom.xml"), wanted).map_err(said)?;
    fs::rename(&aside, &jars).map_err(said)?;
    Ok(jars)
}
