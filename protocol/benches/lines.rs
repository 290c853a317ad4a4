//! What a proxy does to a line, on lines that real clients and trackers sent.
//!
//! Included: finding the end, cutting the line out, telling its kind, reading some arguments,
//! escaping and unescaping. Left out: sockets, and the copying from them.
//!
//! A round goes through all the lines chosen; `elem/s` is lines (or values) in a second.

use std::hint::black_box;
use std::path::Path;

use bytes::{Bytes, BytesMut};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use mogilefs_protocol::escape::{escape, escape_into, unescape};
use mogilefs_protocol::line::{Next, Scanner, text_of};
use mogilefs_protocol::reply::{self, Reply};
use mogilefs_protocol::request::{self, Kind};

const MAX: usize = 1 << 20;

/// Conversations of ordinary clients, good and bad keys among them.
const CONVERSATIONS: [&str; 6] = [
    "perl_client_basics",
    "upload_simple",
    "get_paths",
    "escaping",
    "binary_keys",
    "list_fids",
];

/// All lines that one side sent in them.
fn lines_from(side: &str) -> Vec<Bytes> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/transcripts");
    let mut lines = Vec::new();
    for name in CONVERSATIONS {
        let text = std::fs::read_to_string(folder.join(name).with_extension("jsonl"))
            .expect("the fixtures are in the tree");
        for part in text.lines() {
            let part: serde_json::Value = serde_json::from_str(part).expect("a line of JSON");
            if part["from"] == side {
                let data = part["data"].as_str().unwrap_or_default().chars();
                let data: Vec<u8> = data
                    .map(|c| u8::try_from(u32::from(c)).expect("Latin-1"))
                    .collect();
                let ended = data
                    .split_inclusive(|&byte| byte == b'\n')
                    .filter(|line| line.ends_with(b"\n"));
                lines.extend(ended.map(Bytes::copy_from_slice));
            }
        }
    }
    lines
}

fn benches(c: &mut Criterion) {
    let requests = lines_from("client");
    let replies = lines_from("tracker");
    let wire: Vec<u8> = requests.iter().flatten().copied().collect();
    let texts = |lines: &[Bytes]| -> u64 { lines.iter().map(|line| line.len() as u64).sum() };

    eprintln!(
        "{} requests of {} bytes, {} replies of {} bytes on average",
        requests.len(),
        texts(&requests) / requests.len() as u64,
        replies.len(),
        texts(&replies) / replies.len() as u64,
    );
    let mut group = c.benchmark_group("line");
    group.throughput(Throughput::Elements(requests.len() as u64));

    group.bench_function("cut", |b| {
        b.iter_batched_ref(
            || BytesMut::from(&wire[..]),
            |buf| {
                let mut scanner = Scanner::new(MAX);
                while let Next::Line(line) = scanner.next(buf) {
                    black_box(line);
                }
            },
            BatchSize::SmallInput,
        );
    });
    group.bench_function("parse request", |b| {
        b.iter(|| {
            for line in &requests {
                black_box(request::parse(text_of(black_box(line))));
            }
        });
    });
    group.bench_function("parse request, get domain and key", |b| {
        b.iter(|| {
            for line in &requests {
                if let Kind::Command(command) = request::parse(text_of(black_box(line))) {
                    black_box(command.args().pick(["domain", "key"]));
                }
            }
        });
    });
    group.bench_function("parse request, walk all arguments", |b| {
        b.iter(|| {
            for line in &requests {
                if let Kind::Command(command) = request::parse(text_of(black_box(line))) {
                    command.args().iter().for_each(|arg| {
                        black_box(arg);
                    });
                }
            }
        });
    });

    group.throughput(Throughput::Elements(replies.len() as u64));
    group.bench_function("parse reply", |b| {
        b.iter(|| {
            for line in &replies {
                black_box(reply::parse(text_of(black_box(line))).is_ok());
            }
        });
    });
    group.bench_function("parse reply, get fid", |b| {
        b.iter(|| {
            for line in &replies {
                if let Ok(Reply::Ok(fields)) = reply::parse(text_of(black_box(line))) {
                    black_box(fields.get_u64("fid"));
                }
            }
        });
    });
    group.finish();

    let escaped: Vec<Vec<u8>> = requests
        .iter()
        .filter_map(|line| match request::parse(text_of(line)) {
            Kind::Command(command) => Some(command.args()),
            _ => None,
        })
        .flat_map(|args| {
            args.iter()
                .map(|arg| arg.value.to_vec())
                .collect::<Vec<_>>()
        })
        .collect();
    let raw: Vec<Vec<u8>> = escaped
        .iter()
        .map(|text| unescape(text).into_owned())
        .collect();
    let mut group = c.benchmark_group("value");
    group.throughput(Throughput::Elements(raw.len() as u64));
    group.bench_function("escape", |b| {
        b.iter(|| {
            for value in &raw {
                black_box(escape(black_box(value)));
            }
        });
    });
    group.bench_function("escape into a line", |b| {
        let mut out = BytesMut::with_capacity(1 << 16);
        b.iter(|| {
            for value in &raw {
                out.clear();
                escape_into(&mut out, black_box(value));
                black_box(&out);
            }
        });
    });
    group.bench_function("unescape", |b| {
        b.iter(|| {
            for text in &escaped {
                black_box(unescape(black_box(text)));
            }
        });
    });
    group.finish();
}

criterion_group!(lines, benches);
criterion_main!(lines);
