//! Conversations of real clients with a real tracker, played again with the proxy in the middle.
//!
//! The recorded tracker answers a line only if it is, byte for byte, one that the recorded client sent, and only as often
//! as that was sent; the client must read exactly what the recorded one read, its end included. Empty lines
//! have no answer and are not awaited at the tracker. A read that the recorded tracker did not answer (it closes the
//! connection of whoever comes after a failed rename) may come twice, and is left without an answer twice. `max_key` is as long
//! as a line, since some recorded clients asked for keys that a Cassandra ledger could not hold.

mod proxy_harness;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use proxy_harness::{Client, rig_at, until};
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream};

/// Connections that are not played (all of a conversation's where none is named), and why.
const NOT_PLAYED: &[(&str, &[u32], &str)] = &[(
    "tracker_killed",
    &[2],
    "the recorded client was refused by the port of a dead tracker; the proxy's port is open, and closes the connection \
     at the first request",
)];

#[derive(Deserialize)]
struct Said {
    conn: u32,
    from: From,
    data: String,
    #[serde(default)]
    eof: bool,
    #[serde(default)]
    reset: bool,
    #[serde(default)]
    refused: bool,
}

#[derive(Deserialize, PartialEq, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum From {
    Client,
    Tracker,
}

fn bytes(latin1: &str) -> Vec<u8> {
    latin1
        .chars()
        .map(|char| u8::try_from(u32::from(char)).expect("one byte a character"))
        .collect()
}

fn lines(data: &[u8]) -> Vec<Vec<u8>> {
    data.split_inclusive(|&byte| byte == b'\n')
        .map(<[u8]>::to_vec)
        .collect()
}

/// A request of the recording and what became of it.
struct Request {
    conn: u32,
    line: Vec<u8>,
    /// `None`: the connection ended without an answer.
    answer: Option<Vec<u8>>,
    sent: bool,
    served: bool,
}

#[derive(Default)]
struct Recorded {
    requests: Vec<Request>,
    /// Where a client has an upstream connection of its own.
    own: BTreeMap<u32, OwnedWriteHalf>,
    faults: Vec<String>,
}

/// Which answer belongs to which request.
fn requests(said: &[Said], played: impl Fn(u32) -> bool) -> Vec<Request> {
    let mut asked: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
    let mut told: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
    for said in said.iter().filter(|said| played(said.conn)) {
        let all = if said.from == From::Client {
            &mut asked
        } else {
            &mut told
        };
        all.entry(said.conn).or_default().extend(bytes(&said.data));
    }
    let mut requests = Vec::new();
    for (conn, asked) in asked {
        let told = told.remove(&conn).unwrap_or_default();
        let mut answers = lines(&told)
            .into_iter()
            .filter(|line| !line.starts_with(b":: "));
        for line in lines(&asked) {
            let text = mogilefs_protocol::line::text_of(&line);
            if text.is_empty() || !line.ends_with(b"\n") {
                continue;
            }
            let kind = mogilefs_protocol::request::parse(text);
            let answer = if matches!(kind, mogilefs_protocol::request::Kind::Admin(_)) {
                let mut whole = Vec::new();
                for line in answers.by_ref() {
                    whole.extend(&line);
                    if line == b".\r\n" {
                        break;
                    }
                }
                (!whole.is_empty()).then_some(whole)
            } else {
                answers.next()
            };
            requests.push(Request {
                conn,
                line,
                answer,
                sent: false,
                served: false,
            });
        }
        assert_eq!(
            answers.next(),
            None,
            "an answer to no request of connection {conn}"
        );
    }
    requests
}

/// Serves one upstream connection.
async fn recorded_tracker(
    stream: TcpStream,
    recorded: Arc<Mutex<Recorded>>,
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut reads, writes) = stream.into_split();
    let mut writes = Some(writes);
    let mut own = None;
    let mut pending = Vec::new();
    let mut buffer = vec![0; 65536];
    let mut count = 0;
    loop {
        let read = reads.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        pending.extend_from_slice(&buffer[..read]);
        while let Some(end) = pending.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            if mogilefs_protocol::line::text_of(&line).is_empty() {
                continue;
            }
            let (answer, conn) = {
                let mut recorded = recorded.lock();
                let fits = |request: &&mut Request| {
                    (!request.served || request.answer.is_none())
                        && request.sent
                        && request.line == line
                        && own.is_none_or(|own| own == request.conn)
                };
                let Some(request) = recorded.requests.iter_mut().find(fits) else {
                    let line = line.escape_ascii().to_string();
                    recorded.faults.push(format!("the tracker got {line:.200}"));
                    return Ok(());
                };
                request.served = true;
                let (answer, conn) = (request.answer.clone(), request.conn);
                if line.starts_with(b"!")
                    && line.get(1).is_some_and(|byte| !byte.is_ascii_whitespace())
                    && own.is_none()
                {
                    own = Some(conn);
                }
                (answer, conn)
            };
            let Some(answer) = answer else { return Ok(()) };
            let mut out = match writes.take() {
                Some(out) => out,
                None => recorded
                    .lock()
                    .own
                    .remove(&conn)
                    .expect("nobody else writes now"),
            };
            // Every other answer comes in two pieces.
            count += 1;
            let cut = if count % 2 == 0 { answer.len() / 2 } else { 0 };
            out.write_all(&answer[..cut]).await?;
            if cut > 0 {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
            out.write_all(&answer[cut..]).await?;
            if own.is_some() {
                recorded.lock().own.insert(conn, out);
            } else {
                writes = Some(out);
            }
        }
    }
}

async fn play(name: &str, said: Vec<Said>) -> Result<usize, String> {
    let left_out: Vec<u32> = NOT_PLAYED
        .iter()
        .filter(|(of, _, _)| *of == name)
        .flat_map(|(_, conns, _)| conns.iter().copied())
        .collect();
    let played = |conn: u32| !left_out.contains(&conn);
    let recorded = Arc::new(Mutex::new(Recorded {
        requests: requests(&said, played),
        ..Recorded::default()
    }));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let tracker = listener.local_addr().expect("an address");
    let shared = Arc::clone(&recorded);
    let accepting = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(recorded_tracker(stream, Arc::clone(&shared)));
        }
    });
    let rig = rig_at(&[tracker], 1 << 30, |config| {
        config.max_key = config.max_line
    });
    let mut clients: BTreeMap<u32, Client> = BTreeMap::new();
    let mut sent: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
    // Clients that were reset see nothing more, not even the end.
    let mut gone = std::collections::BTreeSet::new();
    let mut played_here = 0;
    for said in said.iter().filter(|said| played(said.conn)) {
        let conn = said.conn;
        if gone.contains(&conn) {
            continue;
        }
        if let std::collections::btree_map::Entry::Vacant(new) = clients.entry(conn) {
            new.insert(rig.client().await);
            played_here += 1;
        }
        let client = clients.get_mut(&conn).expect("just made");
        let data = bytes(&said.data);
        match said.from {
            From::Client => {
                let so_far = sent.entry(conn).or_default();
                so_far.extend(&data);
                let whole = lines(so_far)
                    .into_iter()
                    .filter(|line| {
                        line.ends_with(b"\n") && !mogilefs_protocol::line::text_of(line).is_empty()
                    })
                    .count();
                recorded
                    .lock()
                    .requests
                    .iter_mut()
                    .filter(|request| request.conn == conn)
                    .take(whole)
                    .for_each(|request| request.sent = true);
                if !data.is_empty() {
                    // A client may write to a connection that has ended.
                    let _ended = client.stream.write_all(&data).await;
                }
                if said.eof {
                    let _ended = client.stream.shutdown().await;
                }
                if said.reset {
                    until("the request is with the tracker", || {
                        let recorded = recorded.lock();
                        recorded
                            .requests
                            .iter()
                            .all(|request| request.conn != conn || request.served)
                    })
                    .await;
                    clients.remove(&conn).expect("known").reset();
                    gone.insert(conn);
                }
            }
            From::Tracker => {
                for line in lines(&data) {
                    if line.starts_with(b":: ") {
                        let mut own = recorded.lock().own.remove(&conn).expect("a watcher");
                        own.write_all(&line).await.expect("the proxy reads");
                        recorded.lock().own.insert(conn, own);
                    }
                    let got =
                        tokio::time::timeout(proxy_harness::PATIENCE, client.exactly(line.len()))
                            .await
                            .map_err(|_| {
                                format!("connection {conn} waits for {:.100}", line.escape_ascii())
                            })?;
                    if got != line {
                        let (got, line) = (got.escape_ascii(), line.escape_ascii());
                        return Err(format!("connection {conn} got {got:.200}, not {line:.200}"));
                    }
                }
                if said.eof {
                    let rest = client.rest().await;
                    if !rest.is_empty() {
                        return Err(format!("connection {conn} got {rest:.200} before its end"));
                    }
                }
                assert!(!said.refused, "a refused connection cannot be played");
            }
        }
    }
    accepting.abort();
    let recorded = recorded.lock();
    if let Some(fault) = recorded.faults.first() {
        return Err(fault.clone());
    }
    match recorded
        .requests
        .iter()
        .find(|request| !request.served && request.answer.is_some())
    {
        Some(missing) => Err(format!(
            "the tracker never got {:.200}",
            missing.line.escape_ascii()
        )),
        None => Ok(played_here),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_recorded_conversation_passes_byte_for_byte() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/transcripts");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("the recordings")
        .map(|file| file.expect("readable").path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "jsonl"))
        .collect();
    files.sort();
    assert!(files.len() > 50, "{} recordings", files.len());
    let mut failures = Vec::new();
    for path in &files {
        let name = path
            .file_stem()
            .and_then(|name| name.to_str())
            .expect("a name");
        let said: Vec<Said> = std::fs::read_to_string(path)
            .expect("readable")
            .lines()
            .map(|line| serde_json::from_str(line).expect("a recorded line"))
            .collect();
        let connections: std::collections::BTreeSet<u32> =
            said.iter().map(|said| said.conn).collect();
        let listed: usize = NOT_PLAYED
            .iter()
            .filter(|(of, _, _)| *of == name)
            .map(|(_, conns, _)| conns.len())
            .sum();
        // A panic is reported with the name of its conversation.
        let of_this = name.to_owned();
        let played = tokio::spawn(async move { play(&of_this, said).await }).await;
        match played.unwrap_or_else(|panic| Err(panic.to_string())) {
            Ok(played) if played + listed == connections.len() => {}
            Ok(played) => {
                failures.push(format!("{name}: {played} of {} played", connections.len()))
            }
            Err(why) => failures.push(format!("{name}: {why}")),
        }
    }
    for (name, conns, _why) in NOT_PLAYED {
        assert!(
            files
                .iter()
                .any(|path| path.ends_with(format!("{name}.jsonl"))),
            "{name} is no recording"
        );
        assert!(!conns.is_empty());
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
