//! Plays recorded conversations against a tracker and compares the answers.

mod compare;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use compare::{Answer, Numbers};
use mogilefs_protocol::args::Args;
use mogilefs_protocol::escape::escape;
use mogilefs_protocol::line::text_of;
use mogilefs_protocol::request::{Kind, parse};

/// A conversation, the beginning of a request, and why its answer differs.
pub type Exception = (&'static str, &'static str, &'static str);

/// How many bytes an upload has that the recording tells nothing about.
const USUAL_LENGTH: usize = 5120;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/transcripts")
}

/// The names of all recorded conversations.
pub fn conversation_names() -> BTreeSet<String> {
    std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "jsonl")
        })
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect()
}

/// One record of a conversation.
struct Record {
    conn: u64,
    from_client: bool,
    data: Vec<u8>,
    ends: Option<End>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Eof,
    Reset,
    Refused,
}

fn read_conversation(name: &str) -> Vec<Record> {
    let text = std::fs::read_to_string(folder().join(format!("{name}.jsonl"))).unwrap();
    text.lines()
        .map(|line| {
            let record: serde_json::Value = serde_json::from_str(line).unwrap();
            let flag = |name: &str| record[name].as_bool().unwrap_or(false);
            // Data is latin-1: each character is a byte.
            let data = record["data"]
                .as_str()
                .unwrap()
                .chars()
                .map(|c| u8::try_from(c).unwrap())
                .collect();
            Record {
                conn: record["conn"].as_u64().unwrap(),
                from_client: record["from"] == "client",
                data,
                ends: [
                    ("eof", End::Eof),
                    ("reset", End::Reset),
                    ("refused", End::Refused),
                ]
                .into_iter()
                .find_map(|(name, end)| flag(name).then_some(end)),
            }
        })
        .collect()
}

/// One connection of a conversation, and where both sides are.
struct Conn {
    writer: TcpStream,
    reader: BufReader<TcpStream>,
    /// What the client has sent of its next line.
    unsent_line: Vec<u8>,
    /// Requests that wait for an answer.
    asked: VecDeque<Vec<u8>>,
    /// What the recorded tracker has said and we have not looked at.
    recorded: Vec<u8>,
    client_ended: bool,
}

/// The player, and what it has learned.
pub struct Player {
    tracker: SocketAddr,
    numbers: Numbers,
    exceptions: &'static [Exception],
    failures: Vec<String>,
    lengths: BTreeMap<i64, Option<usize>>,
    /// Lengths that only a later listing tells.
    listed_lengths: BTreeMap<i64, usize>,
}

impl Player {
    pub fn new(
        tracker: SocketAddr,
        storage: Vec<SocketAddr>,
        exceptions: &'static [Exception],
    ) -> Player {
        Player {
            tracker,
            numbers: Numbers::new(storage),
            exceptions,
            failures: Vec::new(),
            lengths: BTreeMap::new(),
            listed_lengths: listed_lengths(&read_conversation("list_fids")),
        }
    }

    pub fn into_failures(self) -> Vec<String> {
        self.failures
    }

    /// Two recorded fids stand for one file of ours.
    pub fn same_file(&mut self, known: i64, alias: i64) {
        self.numbers.same_file(known, alias);
    }

    pub fn play(&mut self, name: &str) {
        let records = read_conversation(name);
        self.lengths = lengths_of(&records);
        let mut conns: BTreeMap<u64, Conn> = BTreeMap::new();
        for record in &records {
            if record.ends == Some(End::Refused) {
                continue;
            }
            let tracker = self.tracker;
            let conn = conns
                .entry(record.conn)
                .or_insert_with(|| Conn::open(tracker));
            match (record.from_client, record.ends) {
                (true, None) => self.send(conn, &record.data),
                (true, Some(End::Reset)) => {
                    socket2::SockRef::from(&conn.writer)
                        .set_linger(Some(Duration::ZERO))
                        .unwrap();
                    conns.remove(&record.conn);
                }
                (true, Some(_)) => {
                    // Where the recorded tracker gave up before, ours has answered.
                    while let Some(request) = conn.asked.front().cloned() {
                        if conn.recorded_owes() || !self.closed_early(&records, record.conn) {
                            break;
                        }
                        conn.asked.pop_front();
                        let ours = conn.read_answer(&request);
                        if !ours.starts_with(b"OK ") && !ours.starts_with(b"ERR ") {
                            self.fail(
                                name,
                                &request,
                                b"(closed)",
                                &ours,
                                "no answer of the protocol's form",
                            );
                        }
                    }
                    conn.writer.shutdown(Shutdown::Write).unwrap();
                    conn.client_ended = true;
                }
                (false, None) => {
                    conn.recorded.extend_from_slice(&record.data);
                    self.compare(name, conn);
                }
                (false, Some(_)) if conn.client_ended => {
                    let mut rest = Vec::new();
                    conn.reader.read_to_end(&mut rest).unwrap();
                    let rest: Vec<&[u8]> = rest.split_inclusive(|&byte| byte == b'\n').collect();
                    if rest.iter().any(|line| !line.starts_with(b":: ")) {
                        self.failures.push(format!(
                            "{name}: more than recorded: {:?}",
                            rest.concat().escape_ascii().to_string()
                        ));
                    }
                }
                (false, Some(_)) => {}
            }
        }
    }

    /// Whether the recorded tracker closed this connection without having been asked to.
    fn closed_early(&self, records: &[Record], conn: u64) -> bool {
        records
            .iter()
            .filter(|record| record.conn == conn && record.ends.is_some())
            .map(|record| record.from_client)
            .next()
            == Some(false)
    }

    /// Sends what the client sent, with our numbers in place of the recorded ones.
    fn send(&mut self, conn: &mut Conn, data: &[u8]) {
        let mut out = Vec::new();
        for piece in data.split_inclusive(|&byte| byte == b'\n') {
            let whole = conn.unsent_line.is_empty() && piece.ends_with(b"\n");
            conn.unsent_line.extend_from_slice(piece);
            if whole {
                out.extend(self.translate(piece));
            } else {
                out.extend_from_slice(piece);
            }
            if piece.ends_with(b"\n") {
                let line = std::mem::take(&mut conn.unsent_line);
                if !text_of(&line).is_empty() {
                    conn.asked.push_back(text_of(&line).to_vec());
                }
            }
        }
        conn.writer.write_all(&out).unwrap();
    }

    /// A request line with our numbers. Puts the bytes there first if it closes an upload.
    fn translate(&mut self, line: &[u8]) -> Vec<u8> {
        let text = text_of(line);
        let Kind::Command(command) = parse(text) else {
            return line.to_vec();
        };
        let name = command.name.to_ascii_lowercase();
        let fid = command
            .args()
            .get_u64("fid")
            .and_then(|fid| i64::try_from(fid).ok());
        let value_of = |arg: &str, value: &[u8]| -> Option<Vec<u8>> {
            let number = || std::str::from_utf8(value).ok()?.parse::<i64>().ok();
            match (&name[..], arg) {
                (b"create_close", "fid") => {
                    Some(self.numbers.our_fid(number()?)?.to_string().into_bytes())
                }
                // A number that the recording never opened is one that we have not either.
                (b"file_debug", "fid") => {
                    let fid = number().filter(|&fid| fid > 0)?;
                    Some(
                        self.numbers
                            .our_fid(fid)
                            .unwrap_or(999_999_999)
                            .to_string()
                            .into_bytes(),
                    )
                }
                (b"create_close", "devid") => Some(
                    self.numbers
                        .our_devid(fid?, number()?)?
                        .to_string()
                        .into_bytes(),
                ),
                (b"create_close", "path") => self.numbers.our_url(value),
                (b"list_fids", "from") => {
                    Some(self.numbers.our_bound(number()?).to_string().into_bytes())
                }
                _ => None,
            }
        };
        let args = command.args();
        let mut out = text[..text.len() - args.raw().len()].to_vec();
        for (n, piece) in args.raw().split(|&byte| byte == b'&').enumerate() {
            if n > 0 {
                out.push(b'&');
            }
            let arg = Args::new(piece).iter().next();
            let ours = arg.and_then(|arg| {
                let name = arg.name_unescaped().into_owned();
                value_of(std::str::from_utf8(&name).ok()?, &arg.value_unescaped())
            });
            match (arg, ours) {
                (Some(arg), Some(ours)) => {
                    out.extend_from_slice(arg.name);
                    out.push(b'=');
                    out.extend_from_slice(escape(&ours).as_bytes());
                }
                _ => out.extend_from_slice(piece),
            }
        }
        if name == b"create_close"
            && let Some(fid) = fid
            && let Some(url) = args
                .get("path")
                .and_then(|path| self.numbers.our_url(&path))
            && let Some(length) = self.length_of(fid)
        {
            put(&String::from_utf8(url).unwrap(), length);
        }
        out.extend_from_slice(&line[text.len()..]);
        out
    }

    /// How many bytes an upload had; none if it had no file.
    fn length_of(&self, fid: i64) -> Option<usize> {
        match self.lengths.get(&fid) {
            Some(known) => *known,
            None => Some(
                self.listed_lengths
                    .get(&fid)
                    .copied()
                    .unwrap_or(USUAL_LENGTH),
            ),
        }
    }

    /// Compares each whole answer that the recording has given so far.
    fn compare(&mut self, name: &str, conn: &mut Conn) {
        while let Some(recorded) = conn.take_recorded() {
            let Some(request) = conn.asked.pop_front() else {
                self.failures.push(format!(
                    "{name}: an answer to nothing: {}",
                    recorded.escape_ascii()
                ));
                return;
            };
            let ours = conn.read_answer(&request);
            self.numbers.learn(&request, &recorded, &ours);
            let excepted = self.exceptions.iter().any(|(conversation, beginning, _)| {
                let beginning: Vec<u8> = beginning
                    .chars()
                    .map(|c| u8::try_from(c).unwrap())
                    .collect();
                (*conversation == "*" || *conversation == name) && request.starts_with(&beginning)
            });
            if excepted {
                let formed = ours.starts_with(b"OK ")
                    || ours.starts_with(b"ERR ")
                    || ours.ends_with(b".\r\n");
                if !formed {
                    self.fail(
                        name,
                        &request,
                        &recorded,
                        &ours,
                        "no answer of the protocol's form",
                    );
                }
                continue;
            }
            if let Err(why) = Answer::compare(&request, &recorded, &ours, &self.numbers) {
                self.fail(name, &request, &recorded, &ours, &why);
            }
        }
    }

    fn fail(&mut self, name: &str, request: &[u8], recorded: &[u8], ours: &[u8], why: &str) {
        let show = |bytes: &[u8]| {
            let text = bytes.escape_ascii().to_string();
            text.chars().take(1500).collect::<String>()
        };
        self.failures.push(format!(
            "{name}: {why}\n  asked    {}\n  recorded {}\n  ours     {}",
            show(request),
            show(recorded),
            show(ours)
        ));
    }
}

impl Conn {
    fn open(tracker: SocketAddr) -> Conn {
        let writer = TcpStream::connect(tracker).unwrap();
        writer.set_nodelay(true).unwrap();
        writer
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        let reader = BufReader::new(writer.try_clone().unwrap());
        Conn {
            writer,
            reader,
            unsent_line: Vec::new(),
            asked: VecDeque::new(),
            recorded: Vec::new(),
            client_ended: false,
        }
    }

    fn recorded_owes(&self) -> bool {
        !self.recorded.is_empty()
    }

    /// The next whole answer of the recording. Lines for watchers belong to no answer.
    fn take_recorded(&mut self) -> Option<Vec<u8>> {
        while self.recorded.starts_with(b":: ") {
            let end = self.recorded.iter().position(|&byte| byte == b'\n')?;
            self.recorded.drain(..=end);
        }
        let admin = matches!(
            parse(self.asked.front().map_or(&b""[..], |asked| asked)),
            Kind::Admin(_)
        );
        let mut end = 0;
        for line in self.recorded.split_inclusive(|&byte| byte == b'\n') {
            if !line.ends_with(b"\n") {
                return None;
            }
            end += line.len();
            if !admin || line == b".\r\n" {
                return Some(self.recorded.drain(..end).collect());
            }
        }
        None
    }

    /// Our answer to a request.
    fn read_answer(&mut self, request: &[u8]) -> Vec<u8> {
        let admin = matches!(parse(request), Kind::Admin(_));
        let mut answer = Vec::new();
        loop {
            let mut line = Vec::new();
            let n = self.reader.read_until(b'\n', &mut line).unwrap();
            if line.starts_with(b":: ") {
                continue;
            }
            answer.extend_from_slice(&line);
            if n == 0 || !admin || line == b".\r\n" {
                return answer;
            }
        }
    }
}

/// How many bytes each upload of a conversation had; none if nothing was there.
fn lengths_of(records: &[Record]) -> BTreeMap<i64, Option<usize>> {
    let mut sent: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    let mut said: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    for record in records {
        let side = if record.from_client {
            &mut sent
        } else {
            &mut said
        };
        side.entry(record.conn)
            .or_default()
            .extend_from_slice(&record.data);
    }
    let mut lengths = BTreeMap::new();
    let mut from_close = BTreeMap::new();
    for (conn, sent) in &sent {
        let lines = |bytes: &'_ [u8]| -> Vec<Vec<u8>> {
            bytes
                .split_inclusive(|&byte| byte == b'\n')
                .map(<[u8]>::to_vec)
                .collect()
        };
        let requests = lines(sent)
            .into_iter()
            .filter(|line| !line.starts_with(b"!") && !text_of(line).is_empty());
        let said = lines(said.get(conn).map_or(&[][..], |said| said));
        let answers = said
            .iter()
            .filter(|line| line.starts_with(b"OK ") || line.starts_with(b"ERR "));
        for (request, answer) in requests.zip(answers) {
            let Kind::Command(command) = parse(text_of(&request)) else {
                continue;
            };
            let answered = String::from_utf8_lossy(text_of(answer)).into_owned();
            let fields = Args::new(answered.strip_prefix("OK ").unwrap_or("").as_bytes());
            let number =
                |args: Args<'_>, name: &str| args.get_u64(name).and_then(|n| i64::try_from(n).ok());
            if command.is("file_info")
                && let (Some(fid), Some(length)) = (number(fields, "fid"), fields.get_u64("length"))
            {
                lengths.insert(fid, Some(usize::try_from(length).unwrap()));
            }
            if command.is("create_close")
                && let Some(fid) = number(command.args(), "fid")
            {
                let size = command.args().get_u64("size").filter(|&size| size > 0);
                let actual = answered
                    .split("actual:+")
                    .nth(1)
                    .and_then(|rest| rest.split("%3B").next()?.parse().ok());
                if answered.starts_with("ERR size_verify_error") {
                    from_close.insert(fid, None);
                } else if answered.starts_with("ERR size_mismatch") {
                    from_close.insert(fid, actual);
                } else if answered.starts_with("OK")
                    && let Some(size) = size
                {
                    from_close.insert(fid, Some(usize::try_from(size).unwrap()));
                }
            }
        }
    }
    from_close.extend(lengths);
    from_close
}

/// The lengths that answers to `list_fids` tell.
fn listed_lengths(records: &[Record]) -> BTreeMap<i64, usize> {
    let mut lengths = BTreeMap::new();
    for record in records {
        let Some(fields) = text_of(&record.data).strip_prefix(b"OK ") else {
            continue;
        };
        let fields = Args::new(fields);
        let number = |n: usize, name: &str| fields.get_u64(&format!("fid_{n}_{name}"));
        for n in 1.. {
            let (Some(fid), Some(length)) = (number(n, "fid"), number(n, "length")) else {
                break;
            };
            lengths.insert(
                i64::try_from(fid).unwrap(),
                usize::try_from(length).unwrap(),
            );
        }
    }
    lengths
}

/// Stores bytes as a client does. The recorded checksums are those of bytes that count up.
fn put(url: &str, length: usize) {
    let (authority, path) = url
        .strip_prefix("http://")
        .unwrap()
        .split_once('/')
        .unwrap();
    // An address that nobody listens at: the recording could not put anything there either.
    let Ok(mut stream) = TcpStream::connect(authority) else {
        return;
    };
    let body: Vec<u8> = (0..length).map(|n| (n % 256) as u8).collect();
    write!(
        stream,
        "PUT /{path} HTTP/1.0\r\nContent-length: {length}\r\n\r\n"
    )
    .unwrap();
    stream.write_all(&body).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains(" 201 "), "PUT {url}: {answer}");
}
