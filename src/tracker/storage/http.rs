//! The storage node's HTTP: GET, HEAD, PUT and DELETE of files on devices.
//!
//! A path is `/devN/` and plain names; anything else is 404, whatever the method. It never leaves the
//! device folder: names that begin with a dot are refused, and nothing is done through a symbolic
//! link below it.
//!
//! As on any storage node, nobody is asked who they are: whoever reaches the port may read, write and
//! delete.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, BodyDataStream};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use futures::StreamExt as _;
use tower::ServiceExt as _;
use tower_http::services::ServeFile;

use super::{CHUNK, Incoming, Storage, sync_dir};
use crate::tracker::checksum::{Hasher, Kind};
use crate::tracker::paths::{Devid, device_dir};
use crate::tracker::store::unix_time;

/// How long a client may go on sending what was refused, before it is cut off.
const LINGER: Duration = Duration::from_secs(30);

/// The service of one storage host.
pub fn router(storage: Storage) -> Router {
    Router::new().fallback(serve).with_state(Arc::new(storage))
}

async fn serve(State(storage): State<Arc<Storage>>, request: Request) -> Response {
    // Programs that watch storage nodes ask for `//dev1/usage`, and for `/` to see who answers.
    let path = request.uri().path();
    let path = path
        .strip_prefix('/')
        .filter(|rest| rest.starts_with('/'))
        .unwrap_or(path);
    if path == "/" && matches!(*request.method(), Method::GET | Method::HEAD) {
        return (StatusCode::OK, "a storage node; folders are not listed\n").into_response();
    }
    let Some(target) = Target::parse(&storage.root, path) else {
        return status(StatusCode::NOT_FOUND);
    };
    let served = match *request.method() {
        Method::GET | Method::HEAD if target.is_usage => {
            Ok(usage(&storage, &target, request.method()))
        }
        Method::GET | Method::HEAD => get(target, request).await,
        Method::PUT if target.is_usage => return status(StatusCode::FORBIDDEN),
        Method::PUT => put(&storage, target, request).await,
        Method::DELETE => delete(target).await,
        // Folders are made by PUT; trackers that ask for one take this for an answer.
        _ if request.method().as_str() == "MKCOL" => return status(StatusCode::BAD_REQUEST),
        _ => return status(StatusCode::METHOD_NOT_ALLOWED),
    };
    served.unwrap_or_else(Failure::into_response)
}

/// What a request is about, once its path was found good.
#[derive(Debug)]
struct Target {
    root: PathBuf,
    devid: Devid,
    /// The names below the device folder; at least one.
    names: Vec<String>,
    is_usage: bool,
}

impl Target {
    fn parse(root: &Path, path: &str) -> Option<Target> {
        let mut names = path.strip_prefix('/')?.split('/');
        let device = names.next()?.strip_prefix("dev")?;
        let devid: Devid = device.parse().ok()?;
        if devid.to_string() != device {
            return None;
        }
        let mut names: Vec<String> = names.map(str::to_owned).collect();
        // A folder may be named with a slash behind it.
        if names.len() > 1 && names.last().is_some_and(String::is_empty) {
            names.pop();
        }
        let plain = |name: &String| {
            !name.is_empty()
                && !name.starts_with('.')
                && name
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
        };
        if names.is_empty() || !names.iter().all(plain) {
            return None;
        }
        let is_usage = names.len() == 1 && names[0] == "usage";
        Some(Target {
            root: root.to_owned(),
            devid,
            names,
            is_usage,
        })
    }

    fn path(&self) -> PathBuf {
        let mut path = device_dir(&self.root, self.devid);
        path.extend(&self.names);
        path
    }

    /// What is there. An error if the device is not, or if something on the way is no folder.
    fn look(&self) -> Result<Found, Failure> {
        let mut path = device_dir(&self.root, self.devid);
        if !path.is_dir() {
            return Err(Failure::NotThere);
        }
        let (last, folders) = self.names.split_last().ok_or(Failure::NotThere)?;
        for folder in folders {
            path.push(folder);
            match path.symlink_metadata() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
                found => {
                    if !found?.is_dir() {
                        return Err(Failure::NotThere);
                    }
                }
            }
        }
        path.push(last);
        match path.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Found::Nothing),
            found => Ok(if found?.is_file() {
                Found::File
            } else {
                Found::Other
            }),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    File,
    Nothing,
    /// A folder, or something that is neither.
    Other,
}

/// Why a request could not be served.
#[derive(Debug)]
enum Failure {
    NotThere,
    /// The client's bytes did not come, or are not what it says.
    Client(&'static str),
    /// The disk is full.
    Full(io::Error),
    Io(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge => Failure::Full(error),
            _ => Failure::Io(error),
        }
    }
}

impl Failure {
    fn into_response(self) -> Response {
        match self {
            Failure::NotThere => status(StatusCode::NOT_FOUND),
            Failure::Client(why) => (StatusCode::BAD_REQUEST, format!("{why}\n")).into_response(),
            Failure::Full(error) => {
                tracing::error!(%error, "a file could not be stored");
                (
                    StatusCode::INSUFFICIENT_STORAGE,
                    format!("the file could not be stored: {error}\n"),
                )
                    .into_response()
            }
            Failure::Io(error) => {
                tracing::error!(%error, "a device failed");
                (
                    StatusCode::INTERNAL_SERVER_ERROR,
                    format!("the device failed: {error}\n"),
                )
                    .into_response()
            }
        }
    }
}

fn status(code: StatusCode) -> Response {
    let text = format!("{code}\n");
    (code, text).into_response()
}

async fn get(target: Target, request: Request) -> Result<Response, Failure> {
    let path = blocking_step(move || match target.look()? {
        Found::File => Ok(target.path()),
        Found::Nothing | Found::Other => Err(Failure::NotThere),
    })
    .await?;
    // Ranges, conditions and HEAD are its business.
    let served = ServeFile::new_with_mime(path, &OCTETS.parse().map_err(|_| Failure::NotThere)?)
        .with_buf_chunk_size(CHUNK)
        .oneshot(request)
        .await;
    match served {
        Ok(response) => Ok(response.map(Body::new)),
        Err(never) => match never {},
    }
}

const OCTETS: &str = "application/octet-stream";

async fn put(storage: &Storage, target: Target, request: Request) -> Result<Response, Failure> {
    let headers = request.headers();
    if !is_whole(headers) {
        return Ok((
            StatusCode::NOT_IMPLEMENTED,
            "a file can only be put whole\n",
        )
            .into_response());
    }
    let content_md5 = headers
        .get("content-md5")
        .map(|value| value.as_bytes().to_vec());
    let root = storage.root.clone();
    let (incoming, target) = blocking_step(move || {
        if target.look()? == Found::Other {
            return Err(Failure::Client(
                "there is no file by that name, but a folder",
            ));
        }
        Ok((Incoming::create(&root, target.devid)?, target))
    })
    .await?;

    let mut body = request.into_body().into_data_stream();
    let stored = receive(&mut body, incoming, content_md5.as_deref(), target).await;
    if stored.is_err() {
        // A client that is still sending would get a reset instead of the answer.
        let rest = async { while let Some(Ok(_)) = body.next().await {} };
        if tokio::time::timeout(LINGER, rest).await.is_err() {
            tracing::debug!("a client goes on sending what was refused");
        }
    }
    stored?;
    Ok(status(StatusCode::CREATED))
}

/// Takes the body in, a good piece at a time, and gives the file its name if it is right.
async fn receive(
    body: &mut BodyDataStream,
    mut incoming: Incoming,
    content_md5: Option<&[u8]>,
    target: Target,
) -> Result<(), Failure> {
    let mut hasher = content_md5.map(|_| Hasher::new(Kind::Md5));
    loop {
        let mut piece = Vec::new();
        let mut length = 0;
        while length < CHUNK
            && let Some(bytes) = body.next().await
        {
            let bytes = bytes.map_err(|_| Failure::Client("the body did not come whole"))?;
            if let Some(hasher) = &mut hasher {
                hasher.update(&bytes);
            }
            length += bytes.len();
            piece.push(bytes);
        }
        let is_last = length < CHUNK;
        if is_last && let (Some(expected), Some(hasher)) = (content_md5, hasher.take()) {
            // With or without the padding.
            let (actual, expected) = (base64(&hasher.finish().digest), expected.trim_ascii());
            if expected != actual.as_bytes() && expected != actual.trim_end_matches('=').as_bytes()
            {
                return Err(Failure::Client("Content-MD5 is that of other bytes"));
            }
        }
        let written = move || {
            piece
                .iter()
                .try_for_each(|bytes| incoming.write(bytes))
                .map(|()| incoming)
        };
        if is_last {
            return blocking_step(move || Ok(written()?.finish(&target.root, &target.path())?))
                .await;
        }
        incoming = blocking_step(move || Ok(written()?)).await?;
    }
}

/// Whether the body is a whole file. A part that begins at the beginning counts as one: that is how
/// clients for large files send a small one, and its length is checked when the upload is closed.
fn is_whole(headers: &HeaderMap) -> bool {
    match headers.get(header::CONTENT_RANGE) {
        None => true,
        Some(range) => range.as_bytes().trim_ascii_start().starts_with(b"bytes 0-"),
    }
}

async fn delete(target: Target) -> Result<Response, Failure> {
    blocking_step(move || {
        if target.look()? != Found::File {
            return Err(Failure::NotThere);
        }
        let path = target.path();
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Failure::NotThere),
            removed => removed?,
        }
        Ok(path.parent().map_or(Ok(()), sync_dir)?)
    })
    .await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// `/devN/usage`, as the programs that watch storage nodes read it: in KiB.
fn usage(storage: &Storage, target: &Target, method: &Method) -> Response {
    let Some(usage) = storage.usage(target.devid) else {
        return status(StatusCode::NOT_FOUND);
    };
    let kib = |bytes: u64| bytes >> 10;
    let percent = (usage.used * 100).div_ceil(usage.total.max(1));
    let text = format!(
        "available: {}\ndevice: dev{}\ndisk: {}\ntime: {}\ntotal: {}\nuse: {percent}%\nused: {}\n",
        kib(usage.total - usage.used),
        target.devid,
        device_dir(&storage.root, target.devid).display(),
        unix_time(),
        kib(usage.total),
        kib(usage.used),
    );
    let length = [(header::CONTENT_LENGTH, text.len().to_string())];
    if method == Method::HEAD {
        (length, ()).into_response()
    } else {
        (length, text).into_response()
    }
}

/// Runs what may wait for a disk away from the async threads.
async fn blocking_step<T: Send + 'static>(
    step: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(step).await {
        Ok(outcome) => outcome,
        Err(error) => Err(Failure::Io(io::Error::other(error))),
    }
}

/// Base64 with padding, as in `Content-MD5`.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = group
            .iter()
            .fold(0_u32, |bits, &byte| bits << 8 | u32::from(byte))
            << (8 * (3 - group.len()));
        for digit in 0..4 {
            if digit <= group.len() {
                text.push(char::from(DIGITS[(bits >> (18 - 6 * digit)) as usize & 63]));
            } else {
                text.push('=');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_paths_are_targets() {
        let parse = |path: &str| Target::parse(Path::new("/srv"), path).map(|target| target.path());
        assert_eq!(
            parse("/dev1/0/000/000/0000000003.fid"),
            Some(PathBuf::from("/srv/dev1/0/000/000/0000000003.fid"))
        );
        assert_eq!(
            parse("/dev12/usage"),
            Some(PathBuf::from("/srv/dev12/usage"))
        );
        assert_eq!(parse("/dev1/0/"), Some(PathBuf::from("/srv/dev1/0")));
        for bad in [
            "",
            "/",
            "/dev1",
            "/dev1/",
            "/dev01/a",
            "/dev/a",
            "/devx/a",
            "/dev1/../tracker.db",
            "/dev1/.incoming/a",
            "/dev1//a",
            "/dev1/a//",
            "/dev1/%2e%2e/a",
            "/dev1/a\\b",
            "/tracker.db",
            "/dev1/./a",
            "/dev+1/a",
            "/dev1/a/../../b",
            "/dev99999999999/a",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn base64_pads() {
        assert_eq!(base64(b""), "");
        assert_eq!(base64(b"f"), "Zg==");
        assert_eq!(base64(b"fo"), "Zm8=");
        assert_eq!(base64(b"foo"), "Zm9v");
        assert_eq!(base64(&[0xff; 16]), "/////////////////////w==");
    }
}
