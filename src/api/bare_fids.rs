//! The calls of the first version, which knew files by a bare Fid.
//!
//! ```text
//! GET  /file/bad/tx01                                          what is not in tx01 yet?
//!      {"Fid":"1234.fid","Created":"2026-02-03T04:05:06.000007Z","Origin":"ma01","Ma01":true,"Tx01":false}
//!      {"all":"good"}                                           nothing for you to do
//! POST /file/add/tx01   {"Fid":"1234.fid"}                      it is in tx01 now        (also at //file/add/tx01)
//!      {"update":"success"}  or  {"update":"fail"}
//! POST /file/new        {"Fid":"1234.fid","Origin":"ma01","Ma01":true,"Tx01":false}       there is a new file
//!      {"insert":"success"}  or  {"insert":"fail"}
//! ```
//!
//! **How a Fid maps to a file.** The Fid `1234.fid` is the file with the key `1234.fid` in the domain `api.fid_domain`
//! (`phylactery` by default), and is to be seen at `/v1/files/phylactery/1234.fid` like any other. `/file/new` writes
//! its head: a put by `Origin`, stamped by this node's clock (that is `Created`), of size 0, since nobody said how
//! large it is. For each datacenter given as `true`, and for the one that `/file/add` names, the ledger
//! notes a replica that is *claimed*: said by an outsider, never looked at by us.
//!
//! **What repair does with such a file: nothing.** A claim is no source to copy from, no proof of anything, and no
//! part of "in sync"; to bring the bytes is the business of the scripts that make these calls. Once a client
//! stores the same key of that domain through a proxy, it is a file like all others, and repair takes it up. (One
//! that nobody claims to hold is a gap: repair says that it finds no source.)
//!
//! **The booleans** are the datacenters that are registered in the ledger, and any other that holds the file, each with
//! its name capitalised (`ma01` is `Ma01`). In `/file/new` one that is left out is `false`, and one that is not
//! registered is a mistake, as is anything else that the call does not know, and a name given twice.
//!
//! **Workers.** A file from `/file/bad` is leased for a minute: no other worker gets it meanwhile, so that
//! `{"all":"good"}` may mean that the rest is in others' hands. Ask again later. Files of other domains are never
//! given out: repair brings them.
//!
//! **Status.** 200 for what was done. 400 for a body that is not JSON, not an object, over 64 KiB, or has wrong members;
//! 404 for an unknown datacenter or, in `/file/add`, Fid; 409 for a Fid that is known already (it is left as it was);
//! 503 when the ledger is not available, or the search for a bad file takes longer than one call may (ask
//! again: it goes on). A 4xx leaves everything as it was; after a 503 send the same again. A refusal has a
//! `message`, but for the plain `{"insert":"fail"}` of a known Fid and `{"update":"fail"}` of an unknown one. With `api.compatible_status = true`
//! the status is always 200, as the first version had it.
//!
//! Two processes that are told of one new Fid in the same instant may both say success; the later one counts.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use serde::de::{Deserialize, DeserializeOwned, Deserializer, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Value, json};

use super::{Api, MAX_BODY, Refusal, Shared, hunt, rfc3339};
use crate::file::{Class, Content, Datacenter, Fid, FileName, Held, Op, Put, Replica, Revision};
use crate::ledger::{FileRecord, FileWrite, Strength};
use crate::placement::Placements;
use crate::version::Version;

/// How long a body may take to arrive: they are short.
const BODY_LIMIT: Duration = Duration::from_secs(10);

/// How much of a body that is too long is still read, so that a client that sends before it reads gets its answer.
const THROWN_AWAY: usize = 16 << 20;

/// `GET /file/bad/{dc}`
pub(super) async fn bad(State(api): Shared, Path(name): Path<String>) -> Result<Response, Refusal> {
    let placements = api.placements().await?;
    let datacenter = registered(&placements, &name)?;
    let context = &api.context;
    let found = api
        .hunts
        .next(
            &*context.ledger,
            &placements,
            &context.config.fid_domain,
            &datacenter,
        )
        .await?;
    Ok(match found {
        None => Json(json!({ "all": "good" })).into_response(),
        Some((file, record)) => Json(BadFile::new(&file, &record, &placements)).into_response(),
    })
}

/// `POST /file/add/{dc}`
pub(super) async fn add(
    State(api): Shared,
    Path(name): Path<String>,
    body: Body,
) -> Result<Response, Failed> {
    match api.add(&name, body).await {
        Ok(true) => Ok(Json(json!({ "update": "success" })).into_response()),
        Ok(false) => Ok((StatusCode::NOT_FOUND, Json(json!({ "update": "fail" }))).into_response()),
        Err(refusal) => Err(Failed {
            what: "update",
            refusal,
        }),
    }
}

/// `POST /file/new`
pub(super) async fn new(State(api): Shared, body: Body) -> Result<Response, Failed> {
    match api.insert(body).await {
        Ok(true) => Ok(Json(json!({ "insert": "success" })).into_response()),
        Ok(false) => Ok((StatusCode::CONFLICT, Json(json!({ "insert": "fail" }))).into_response()),
        Err(refusal) => Err(Failed {
            what: "insert",
            refusal,
        }),
    }
}

/// The status of the first version was always 200.
pub(super) async fn compatible_status(
    State(api): State<Arc<Api>>,
    mut response: Response,
) -> Response {
    if api.context.config.compatible_status {
        *response.status_mut() = StatusCode::OK;
    }
    response
}

/// A refusal in the form that scripts look for.
pub(super) struct Failed {
    what: &'static str,
    refusal: Refusal,
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        let body = json!({ self.what: "fail", "message": self.refusal.to_string() });
        (self.refusal.status(), Json(body)).into_response()
    }
}

impl Api {
    /// False if the ledger knows no such Fid.
    async fn add(&self, name: &str, body: Body) -> Result<bool, Refusal> {
        let Members(mut members) = read(body).await?;
        let placements = self.placements().await?;
        let datacenter = registered(&placements, name)?;
        let (file, fid) = self.file(members.remove("Fid"))?;
        if let Some(unknown) = members.keys().next() {
            return Err(Refusal::Bad(format!(
                "{unknown:?} has no place here: send {{\"Fid\":…}}"
            )));
        }
        let record = self.read(&file).await?;
        let Some(content) = record.content() else {
            return Ok(false);
        };
        // What we have seen ourselves is worth more than what we are told.
        if !hunt::holds(&record, &datacenter) {
            let since = self.context.clock.stamp()?;
            self.claim(&file, &datacenter, content, fid, since).await?;
        }
        self.hunts.release(&datacenter, &file).await;
        Ok(true)
    }

    /// False if the ledger knows the Fid already.
    async fn insert(&self, body: Body) -> Result<bool, Refusal> {
        let Members(mut members) = read(body).await?;
        let placements = self.placements().await?;
        let (file, fid) = self.file(members.remove("Fid"))?;
        let origin = match members.remove("Origin") {
            Some(Value::String(origin)) => origin,
            _ => {
                return Err(Refusal::Bad(
                    "Origin: write a datacenter's name, such as \"ma01\"".to_owned(),
                ));
            }
        };
        let origin = registered(&placements, &origin)
            .map_err(|refusal| Refusal::Bad(format!("Origin: {refusal}")))?;
        let mut holders = BTreeSet::new();
        for datacenter in placements.registered() {
            match members.remove(&capitalised(datacenter)) {
                Some(Value::Bool(true)) => _ = holders.insert(datacenter.clone()),
                Some(Value::Bool(false)) | None => {}
                Some(_) => {
                    return Err(Refusal::Bad(format!(
                        "{}: write true or false, without quotes",
                        capitalised(datacenter)
                    )));
                }
            }
        }
        if let Some(unknown) = members.keys().next() {
            return Err(Refusal::Bad(format!(
                "{unknown:?} has no place here: send Fid, Origin, and a boolean for each of {}",
                list(placements.registered().iter().map(capitalised))
            )));
        }

        let _one_at_a_time = self.inserting.lock().await;
        // A replica alone may be what an attempt left that the ledger cut short: the next one completes it.
        if self.read(&file).await?.head.is_some() {
            return Ok(false);
        }
        let version = self.context.clock.stamp()?;
        let content = Content {
            version,
            origin: origin.clone(),
            node: self.context.node.clone(),
        };
        let head = Revision {
            version,
            origin,
            node: self.context.node.clone(),
            op: Op::Put(Put {
                content: content.clone(),
                size: 0,
                checksum: None,
                fid,
                renamed_from: None,
            }),
        };
        // The claims first: whoever comes between sees a file without a head, which no one acts upon.
        for holder in &holders {
            self.claim(&file, holder, &content, fid, version).await?;
        }
        let write = FileWrite {
            head: Some(head),
            ..FileWrite::default()
        };
        let writing = self.context.ledger.write(&file, &write, Strength::Local);
        self.ask("write the new file", writing).await?;
        Ok(true)
    }

    async fn claim(
        &self,
        file: &FileName,
        datacenter: &Datacenter,
        content: &Content,
        fid: Fid,
        since: Version,
    ) -> Result<(), Refusal> {
        let replica = Replica {
            since,
            held: Some(Held {
                content: content.clone(),
                fid,
                class: Class::default_class(),
                claimed: true,
                checked: None,
                leaving: false,
            }),
        };
        let write = FileWrite {
            replica: Some((datacenter.clone(), replica)),
            ..FileWrite::default()
        };
        let writing = self.context.ledger.write(file, &write, Strength::Local);
        self.ask("write the claim", writing).await
    }

    async fn read(&self, file: &FileName) -> Result<FileRecord, Refusal> {
        let reading = self.context.ledger.read(file, Strength::Local);
        self.ask("read the file", reading).await
    }

    /// `1234.fid` as a file.
    fn file(&self, fid: Option<Value>) -> Result<(FileName, Fid), Refusal> {
        let wrong = || Refusal::Bad("Fid: write a text such as \"1234.fid\"".to_owned());
        let Some(Value::String(text)) = fid else {
            return Err(wrong());
        };
        // Twenty digits hold every number that a tracker can count to.
        let digits = text.strip_suffix(".fid").ok_or_else(wrong)?;
        let plain = digits.len() <= 20 && digits.bytes().all(|b| b.is_ascii_digit());
        let number = plain.then(|| digits.parse().ok()).flatten();
        let file = FileName {
            domain: self.context.config.fid_domain.clone(),
            key: crate::file::Key::from_bytes(text.as_bytes()),
        };
        Ok((file, Fid(number.ok_or_else(wrong)?)))
    }
}

/// The registered datacenter of this name.
pub(super) fn registered(placements: &Placements, name: &str) -> Result<Datacenter, Refusal> {
    let known = placements.registered();
    let found = known.iter().find(|datacenter| datacenter.as_str() == name);
    found.cloned().ok_or_else(|| {
        Refusal::NotFound(format!(
            "no datacenter {name:?} is registered; there are {}",
            list(known.iter())
        ))
    })
}

/// Names as a person lists them.
pub(super) fn list(names: impl Iterator<Item = impl ToString>) -> String {
    let names: Vec<String> = names.map(|name| name.to_string()).collect();
    if names.is_empty() {
        return "none".to_owned();
    }
    names.join(", ")
}

/// `ma01` as `Ma01`.
fn capitalised(datacenter: &Datacenter) -> String {
    let name = datacenter.as_str();
    let (first, rest) = name.split_at(1);
    format!("{}{rest}", first.to_ascii_uppercase())
}

/// A file as `/file/bad` shows it: the members in the order that the first version had them.
struct BadFile {
    fid: String,
    created: String,
    origin: String,
    held: Vec<(String, bool)>,
}

impl BadFile {
    fn new(file: &FileName, record: &FileRecord, placements: &Placements) -> Self {
        let head = record.head.as_ref();
        let mut names = placements.registered().clone();
        names.extend(record.replicas.keys().cloned());
        Self {
            fid: String::from_utf8_lossy(&file.key.bytes()).into_owned(),
            created: head.map(|head| rfc3339(head.version)).unwrap_or_default(),
            origin: head.map(|head| head.origin.to_string()).unwrap_or_default(),
            held: names
                .iter()
                .map(|name| (capitalised(name), hunt::holds(record, name)))
                .collect(),
        }
    }
}

impl Serialize for BadFile {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(3 + self.held.len()))?;
        map.serialize_entry("Fid", &self.fid)?;
        map.serialize_entry("Created", &self.created)?;
        map.serialize_entry("Origin", &self.origin)?;
        for (name, held) in &self.held {
            map.serialize_entry(name, held)?;
        }
        map.end()
    }
}

/// The members of a JSON object, each name once: which of two would have counted is nothing to guess about.
struct Members(BTreeMap<String, Value>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each;
        impl<'de> Visitor<'de> for Each {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object such as {\"Fid\":\"1234.fid\"}")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    if members.contains_key(&name) {
                        return Err(serde::de::Error::custom(format!("{name:?} is there twice")));
                    }
                    members.insert(name, value);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Each)
    }
}

/// A body that is JSON, not too long, and in time.
pub(super) async fn read<T: DeserializeOwned>(body: Body) -> Result<T, Refusal> {
    let reading = tokio::time::timeout(BODY_LIMIT, collect(body)).await;
    let late = || {
        Refusal::Bad(format!(
            "the body did not arrive within {} s",
            BODY_LIMIT.as_secs()
        ))
    };
    let bytes = reading.map_err(|_| late())??;
    serde_json::from_slice(&bytes).map_err(|error| {
        Refusal::Bad(format!(
            "the body is not the JSON that belongs here: {error}"
        ))
    })
}

async fn collect(body: Body) -> Result<Vec<u8>, Refusal> {
    let mut stream = body.into_data_stream();
    let (mut bytes, mut seen) = (Vec::new(), 0);
    while let Some(part) = stream.next().await {
        let part =
            part.map_err(|error| Refusal::Bad(format!("the body did not arrive whole: {error}")))?;
        seen += part.len();
        if seen <= MAX_BODY {
            bytes.extend_from_slice(&part);
        }
        if seen > THROWN_AWAY {
            break;
        }
    }
    if seen > MAX_BODY {
        return Err(Refusal::Bad(format!(
            "the body has more than {MAX_BODY} bytes"
        )));
    }
    Ok(bytes)
}
