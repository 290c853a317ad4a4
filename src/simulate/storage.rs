//! The storage nodes of the datacenters: bytes at URLs, and how they fail.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::http;
use bytes::Bytes;
use futures::StreamExt;
use reqwest::Method;

use super::world::{Fault, World};
use crate::file::Datacenter;

/// What is on the devices of a datacenter, by device and fid.
pub type Shelves = BTreeMap<(u32, u64), Bytes>;

/// Where a datacenter's storage nodes listen.
pub fn host(name: &Datacenter) -> String {
    format!("{name}-store:7500")
}

/// Where the bytes of a fid are.
pub fn url(name: &Datacenter, devid: u32, fid: u64) -> String {
    format!("http://{}/dev{devid}/0/000/000/{fid:010}.fid", host(name))
}

fn named(url: &reqwest::Url) -> Option<(u32, u64)> {
    let mut parts = url.path_segments()?;
    let devid = parts.next()?.strip_prefix("dev")?.parse().ok()?;
    let fid = parts.next_back()?.strip_suffix(".fid")?.parse().ok()?;
    Some((devid, fid))
}

fn answer(status: u16, body: Bytes) -> io::Result<reqwest::Response> {
    answer_with(status, body.len() as u64, reqwest::Body::from(body))
}

fn answer_with(status: u16, length: u64, body: reqwest::Body) -> io::Result<reqwest::Response> {
    let response = http::Response::builder()
        .status(status)
        .header(http::header::CONTENT_LENGTH, length)
        .body(body)
        .map_err(io::Error::other)?;
    Ok(reqwest::Response::from(response))
}

/// Answers a request.
pub async fn serve(
    world: Arc<World>,
    from: usize,
    mut request: reqwest::Request,
) -> io::Result<reqwest::Response> {
    let to = request
        .url()
        .host_str()
        .and_then(|host| world.place_of(host));
    let (Some(to), Some(at)) = (to, named(request.url())) else {
        return Err(io::ErrorKind::NotFound.into());
    };
    world.travel(from, to).await;
    if !world.reaches(from, to) {
        tokio::time::sleep(Duration::from_secs(5)).await;
        return Err(io::ErrorKind::TimedOut.into());
    }
    if world.has(to, Fault::StorageDown) {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    if world.has(to, Fault::StorageSlow) {
        world.pause(200, 3000).await;
    }
    if *request.method() == Method::PUT {
        let body = request.body_mut().take().unwrap_or_default();
        let bytes = reqwest::Response::from(http::Response::new(body));
        let bytes = bytes.bytes().await.map_err(io::Error::other)?;
        world.places[to].shelves.lock().insert(at, bytes);
        return answer(201, Bytes::new());
    }
    let found = world.places[to].shelves.lock().get(&at).cloned();
    let Some(mut bytes) = found else {
        return answer(404, Bytes::new());
    };
    if *request.method() == Method::HEAD {
        return answer_with(200, bytes.len() as u64, reqwest::Body::default());
    }
    let length = bytes.len() as u64;
    if world.has(to, Fault::StorageLies) && world.chance(0.5) {
        match world.pick(3) {
            0 => bytes.truncate(world.pick(bytes.len().max(1))),
            1 => bytes = Bytes::from([&bytes[..], b"more"].concat()),
            _ => bytes = Bytes::new(),
        }
    }
    let slow = world.has(to, Fault::StorageSlow);
    let middle = bytes.len() / 2;
    let parts = [bytes.slice(..middle), bytes.slice(middle..)];
    let body = futures::stream::iter(parts).then(move |part| {
        let world = Arc::clone(&world);
        async move {
            if slow {
                world.pause(100, 1000).await;
            }
            Ok::<_, io::Error>(part)
        }
    });
    answer_with(200, length, reqwest::Body::wrap_stream(body))
}
