//! The API's answers for people. What an answer lacks is left out, so that an older API can be asked too.

use serde_json::Value;

use crate::cli::paint::{bad, bytes, faint, good, grouped, plain, say, strong, waiting};

pub(super) fn status(answer: &Value) {
    let proved = answer["proved_at"].as_str();
    let in_sync = match (answer["in_sync"].as_bool(), proved) {
        (Some(true), at) => good(format!("yes, as of {}", at.unwrap_or("now"))),
        (_, Some(at)) => waiting(format!("not proved; the last proof is of {at}")),
        (_, None) => waiting("not proved yet".to_owned()),
    };
    row("datacenter", strong(text(&answer["datacenter"])));
    row("in sync", in_sync);
    if let Some(what) = answer["doubt"]["is"].as_str() {
        row("doubt", bad(plain(what)));
        row(
            "",
            bad("repair has stopped until a person has said what is true; see `phylactery accept`"),
        );
    }
    let problem = &answer["ledger"]["problem"];
    match problem.as_str() {
        Some(problem) => row("ledger", bad(plain(problem))),
        None => row("ledger", text(&answer["ledger"]["is"])),
    }
    unreachable(&answer["ledger"]["unreachable"]);
    debts(&answer["ledger"]["not_yet_whole"]);
    row("journal", journal(&answer["journal"]));
    if let Some(why) = answer["journal"]["refusing"].as_str() {
        row("", bad(format!("refuses changes: {}", plain(why))));
    }
    match answer["gaps"].as_u64() {
        Some(0) => row("gaps", good("none")),
        Some(count) => row(
            "gaps",
            waiting(format!("{}; see `phylactery gaps`", grouped(count))),
        ),
        None => row("gaps", bad("not known")),
    }
    lag(&answer["repair"]["lag"], &answer["oldest_not_applied"]);
    part("repair", &answer["repair"]);
    part("proxy", &answer["proxy"]);
}

/// How late changes of the others are, and how old what is not done is. An older API says nothing of it.
fn lag(lag: &Value, oldest: &Value) {
    let mut name = "lag";
    let mut line = |text: String| row(std::mem::take(&mut name), text);
    for (from, lag) in lag["from"].as_object().into_iter().flatten() {
        let figure = |key: &str| lag[key].as_f64().map(lasting).unwrap_or_default();
        let (half, most) = (figure("p50_seconds"), figure("p99_seconds"));
        line(format!(
            "of changes in {}: p50 {half}, p99 {most}",
            strong(plain(from))
        ));
    }
    if let Some(age) = oldest["age_seconds"].as_f64() {
        let since = text(&oldest["since"]);
        line(
            waiting(format!(
                "the oldest that is not done is {} old ({since})",
                lasting(age)
            ))
            .to_string(),
        );
    }
    let count = |key: &str| lag[key].as_u64().unwrap_or_default();
    if count("missed") > 0 {
        let (missed, came) = (grouped(count("missed")), grouped(count("came_late")));
        line(
            waiting(format!(
                "{missed} files missed their goal, {came} of them have come"
            ))
            .to_string(),
        );
    }
}

/// A time that has passed: small ones in milliseconds' reach, large ones rounded.
fn lasting(seconds: f64) -> String {
    match seconds {
        s if s < 10.0 => format!("{s:.2} s"),
        s => about(s),
    }
}

/// Nodes of the ledger that are away. An older API, and a ledger in one piece, names none.
fn unreachable(nodes: &Value) {
    let nodes: Vec<String> = nodes.as_array().into_iter().flatten().map(text).collect();
    if !nodes.is_empty() {
        for line in wrapped(&format!("not reached: {}", nodes.join(", "))) {
            row("", bad(line));
        }
    }
}

/// What the ledger has, but not yet everywhere; only when there is something to say.
fn debts(owed: &Value) {
    let count = owed["count"].as_u64().unwrap_or_default();
    let since = owed["since"].as_str().map(plain);
    let asserting = owed["asserting_since"].as_str().map(plain);
    if count == 0 && asserting.is_none() {
        return;
    }
    let since = since.map_or(String::new(), |since| format!(", since {since}"));
    let mut name = "debts";
    if count > 0 || asserting.is_none() {
        let text = format!("{} not yet on every copy{since}", grouped(count));
        row(std::mem::take(&mut name), waiting(text));
    }
    if let Some(since) = asserting {
        let walk = match owed["walk_percent"].as_f64() {
            // Not 100 before it has ended.
            Some(percent) => format!(", at {:.0} %", percent.floor()),
            None => String::new(),
        };
        row(name, waiting(format!("all changes since {since}{walk}")));
    }
    if let Some(since) = owed["failing_since"].as_str() {
        row("", bad(format!("fails since {}", plain(since))));
        let why = owed["last_error"]["error"].as_str().unwrap_or_default();
        for line in wrapped(&plain(why)) {
            row("", format_args!("  {}", faint(line)));
        }
    }
    for file in owed["named"].as_array().into_iter().flatten() {
        let aside = format!(
            "set aside: {} {}: {}",
            text(&file["domain"]),
            text(&file["key"]),
            text(&file["why"])
        );
        for line in wrapped(&aside) {
            row("", bad(line));
        }
    }
}

/// What is in doubt, and what accepting it means.
pub(super) fn doubt(answer: &Value) {
    let datacenter = strong(text(&answer["datacenter"]));
    let doubt = &answer["doubt"];
    if !doubt.is_object() {
        say!("{} in {datacenter}", good("nothing is in doubt"));
        return;
    }
    say!("In {datacenter} repair has stopped, and clients are served:");
    say!("  {}", bad(text(&doubt["is"])));
    say!("  {}", faint(format!("found at {}", text(&doubt["found"]))));
    say!("To accept it means:");
    say!("  {}", text(&doubt["accepting"]));
}

/// What came of accepting.
pub(super) fn accepted(answer: &Value) {
    match answer["doubt"]["is"].as_str() {
        None => say!(
            "{}",
            good("Accepted; repair goes on as soon as the ledger answers.")
        ),
        Some(next) => {
            say!("Accepted, but repair does not go on yet:");
            say!("  {}", bad(plain(next)));
        }
    }
}

/// In lines that stay within 80 columns, with a name in front and an indent, wherever words allow it.
fn wrapped(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let last = lines.len() - 1;
        let line = &mut lines[last];
        if line.is_empty() {
            line.push_str(word);
        } else if line.chars().count() + 1 + word.chars().count() > FIGURES - 2 {
            lines.push(word.to_owned());
        } else {
            line.push(' ');
            line.push_str(word);
        }
    }
    lines
}

fn journal(journal: &Value) -> String {
    let count = |key: &str| journal[key].as_u64().unwrap_or_default();
    if count("depth") == 0 {
        return "empty: the ledger has everything".to_owned();
    }
    format!(
        "{} waiting for the ledger, {} with an open outcome, the oldest for {:.1} s",
        grouped(count("depth")),
        grouped(count("open_intents")),
        journal["oldest_seconds"].as_f64().unwrap_or_default()
    )
}

/// How wide a line of figures becomes: with its name in front it stays within 80 columns.
const FIGURES: usize = 66;

/// Whatever a part says of itself: a line for each of its workers and for each tracker that is left out, then its figures.
pub(super) fn part(name: &str, said: &Value) {
    let mut name = name;
    let mut line = |text: String| row(std::mem::take(&mut name), text);
    let list = |of: &'static str| said[of].as_array().into_iter().flatten();
    for worker in list("workers") {
        describe_worker(worker).into_iter().for_each(&mut line);
        let verify = &worker["progress"]["verify"];
        describe_verify(verify).into_iter().for_each(&mut line);
        if let Some(trouble) = trouble_of(worker) {
            line(format!("  {trouble}"));
        }
    }
    for tracker in list("trackers").filter(|tracker| tracker["up"] == false) {
        let why = tracker["last_error"].as_str().map(plain);
        let why = why.unwrap_or_else(|| "it does not answer".to_owned());
        let text = format!("tracker {} is left out: {why}", text(&tracker["name"]));
        line(bad(text).to_string());
    }
    for clock in list("clocks") {
        let seconds = clock["ahead_seconds"].as_i64().unwrap_or_default();
        let side = if seconds > 0 { "ahead of" } else { "behind" };
        let off = grouped(seconds.unsigned_abs());
        let node = text(&clock["node"]);
        line(bad(format!("the clock of {node} is {off} s {side} ours (NTP)")).to_string());
    }
    let mut figures: Vec<(String, String)> = Vec::new();
    for (member, value) in said.as_object().into_iter().flatten() {
        let value = match value {
            // A time among the counts.
            Value::Number(_) if member == "caught_up" => time(value),
            Value::Number(number) => number.as_u64().map_or(number.to_string(), grouped),
            Value::String(_) | Value::Bool(_) => text(value),
            // Lists and objects have been told above, or are for --json.
            Value::Array(_) | Value::Object(_) | Value::Null => continue,
        };
        figures.push((plain(&member.replace('_', " ")), value));
    }
    let (mut told, mut width) = (String::new(), 0);
    for (what, value) in figures {
        let more = what.len() + 1 + value.len();
        if width > 0 && width + 2 + more > FIGURES {
            line(std::mem::take(&mut told));
            width = 0;
        }
        if width > 0 {
            told.push_str(", ");
            width += 2;
        }
        told.push_str(&format!("{} {value}", faint(what)));
        width += more;
    }
    if width > 0 {
        line(told);
    }
}

/// One line, or two where one would be too long.
fn describe_worker(worker: &Value) -> Vec<String> {
    let figure = |key: &str| worker[key].as_u64().map(grouped).unwrap_or_default();
    let mut said = format!(
        "{} {}, {} done, {} failed",
        strong(text(&worker["name"])),
        text(&worker["state"]).replace('_', " "),
        figure("done"),
        figure("failed")
    );
    if let Some(rate) = worker["files_per_second"].as_u64() {
        said.push_str(&format!(", at most {}/s", grouped(rate)));
    }
    if let Some(rest) = worker["rest"].as_f64().filter(|rest| *rest > 0.0) {
        said.push_str(&format!(", rests {rest}:1"));
    }
    let progress = &worker["progress"];
    let streams = progress["tail"].as_object().into_iter().flatten();
    let behind: u64 = streams.filter_map(|(_, at)| at["behind"].as_u64()).sum();
    if behind > 0 {
        said.push_str(&format!(", {} changes behind", waiting(grouped(behind))));
    }
    let under_way = describe_scan(&progress["scan"]).or(describe_scan(&progress["verify"]));
    let Some(scan) = under_way else {
        return vec![said];
    };
    let width = anstream::adapter::strip_str(&said).to_string().len() + 2 + scan.len();
    if width > FIGURES {
        return vec![said, format!("  {scan}")];
    }
    vec![format!("{said}, {scan}")]
}

/// What verify has found, if it has, and what it asks.
fn describe_verify(verify: &Value) -> Vec<String> {
    let count = |key: &str| verify[key].as_u64().unwrap_or_default();
    let found = ["missing", "damaged", "brought again", "unsure"];
    let found = found.map(|what| (count(&what.replace(' ', "_")), what));
    let mut lines = Vec::new();
    if found.iter().any(|(count, _)| *count > 0) {
        let told = found.map(|(count, what)| format!("{} {what}", grouped(count)));
        let looked_at = grouped(count("looked_at"));
        let told = wrapped(&format!("of {looked_at} looked at: {}", told.join(", ")));
        lines.extend(told.iter().map(|line| format!("  {}", waiting(line))));
    }
    if let Some(asks) = verify["asks"].as_str() {
        let asks = wrapped(&plain(asks));
        lines.extend(asks.iter().map(|line| format!("  {}", bad(line))));
    }
    lines
}

/// How far the scan or verify is, how fast, and how long the rest takes. An older API tells neither speed nor rest, and at the
/// beginning nobody knows them.
fn describe_scan(scan: &Value) -> Option<String> {
    // Not 100 before it has ended.
    let percent = scan["percent"].as_f64()?.floor();
    if !scan["began"].is_number() {
        return None;
    }
    let mut said = format!("at {percent:.0} %");
    if let Some(rate) = scan["files_per_second"].as_f64() {
        let rate = match rate {
            slow if slow < 10.0 => format!("{slow:.1}"),
            fast => grouped(fast.round() as u64),
        };
        said.push_str(&format!(", {rate} files/s"));
    }
    if let Some(left) = scan["seconds_left"].as_f64() {
        said.push_str(&format!(", {} left", about(left)));
    }
    Some(said)
}

/// A time that lies ahead, in one unit of which there are few, rounded up.
fn about(seconds: f64) -> String {
    let (unit, of) = match seconds {
        s if s <= 90.0 => ("s", 1.0),
        s if s <= 90.0 * 60.0 => ("min", 60.0),
        s if s <= 48.0 * 3600.0 => ("h", 3600.0),
        _ => ("days", 86_400.0),
    };
    format!("{} {unit}", grouped((seconds / of).ceil() as u64))
}

/// The last thing that failed, with its time: it may be over long ago.
fn trouble_of(worker: &Value) -> Option<String> {
    let last_error = &worker["last_error"];
    let why = plain(last_error["error"].as_str()?);
    let at = time(&last_error["at"]);
    Some(match worker["state"].as_str() {
        Some("waiting_for_ledger") => bad(why).to_string(),
        // Told above, once for all.
        Some("stopped" | "asking") => return None,
        _ => faint(format!("last trouble at {at}: {why}")).to_string(),
    })
}

pub(super) fn file(answer: &Value) {
    say!(
        "{} {}",
        strong(text(&answer["domain"])),
        strong(text(&answer["key"]))
    );
    known(answer);
}

/// Why a file is in the datacenter that was asked, or is not: the sentence, then what it rests on.
pub(super) fn explained(answer: &Value) {
    say!(
        "{} {} in {}",
        strong(text(&answer["domain"])),
        strong(text(&answer["key"])),
        strong(text(&answer["datacenter"]))
    );
    for line in wrapped(&text(&answer["says"])) {
        say!("  {line}");
    }
    let has_members = |of: &Value| of.as_object().is_some_and(|of| !of.is_empty());
    if has_members(&answer["head"]) || has_members(&answer["replicas"]) {
        known(answer);
    }
    let due: Vec<String> = answer["due"]
        .as_array()
        .into_iter()
        .flatten()
        .map(text)
        .collect();
    if !due.is_empty() {
        let rule = &answer["placement"];
        let by = match (rule["domain"].as_str(), rule["class"].as_str()) {
            (Some(domain), Some(class)) => {
                format!("placement of {}:{}", plain(domain), plain(class))
            }
            (Some(domain), None) => format!("placement of {}", plain(domain)),
            (None, _) => "all active datacenters".to_owned(),
        };
        row("due", format_args!("{}  {}", due.join(", "), faint(by)));
    }
    let tracker = &answer["tracker"];
    match (tracker["problem"].as_str(), tracker["fid"].as_u64()) {
        (Some(problem), _) => row("tracker", bad(plain(problem))),
        (None, Some(fid)) => row("tracker", format_args!("has it as fid {fid}")),
        (None, None) => row("tracker", "does not have it"),
    }
    if answer["journal"]["open"] == true {
        row("journal", waiting("a change of it is open"));
    }
}

/// The newest revision, and who has it.
fn known(answer: &Value) {
    let head = &answer["head"];
    match head["op"].as_str() {
        Some("put") => {
            let size = head["size"].as_u64().unwrap_or_default();
            let class = match head["class"].as_str() {
                Some(class) => format!(", class {}", plain(class)),
                None => String::new(),
            };
            row(
                "stored",
                format_args!("{}{class}, {}", origin(head), bytes(size)),
            );
            if let Some(checksum) = head["checksum"].as_str() {
                row("", plain(checksum));
            }
        }
        Some(_) => row("deleted", origin(head)),
        None => row("", "its head has not arrived in the ledger yet"),
    }
    let names = |key: &str| -> Vec<&str> {
        let list = answer[key].as_array().into_iter().flatten();
        list.filter_map(Value::as_str).collect()
    };
    let (due, missing) = (names("due"), names("missing"));
    let no_replicas = serde_json::Map::new();
    let replicas = answer["replicas"].as_object().unwrap_or(&no_replicas);
    let mut datacenters: Vec<&str> = replicas.keys().map(String::as_str).collect();
    datacenters.extend(&due);
    datacenters.sort_unstable();
    datacenters.dedup();
    for datacenter in datacenters {
        let replica = &answer["replicas"][datacenter];
        let held = replica["content"].is_string();
        let is_due = due.contains(&datacenter);
        let damaged = replica["checked"]["found"] == "damaged";
        let state = match (missing.contains(&datacenter), held, is_due) {
            (_, true, true) if damaged => bad("has it damaged"),
            (true, true, _) => waiting("has another revision or class of it"),
            (true, false, _) => waiting("is to get it"),
            (false, true, true) => good("has it"),
            (false, true, false) if head["op"] == "put" => faint("has it, and it is not due there"),
            (false, true, false) => waiting("still has it, and should not"),
            (false, false, _) => faint("does not have it"),
        };
        let mut more = String::new();
        if held {
            more = format!(
                "  fid {}, since {}",
                replica["fid"],
                time(&replica["since"])
            );
        }
        if replica["claimed"] == true {
            more.push_str(", as somebody claims");
        }
        // How, and what it came to: "size", "bytes", "copied" or "damaged".
        if let Some(found) = replica["checked"]["found"].as_str() {
            let at = time(&replica["checked"]["at"]);
            more.push_str(&format!(", checked {at} ({})", plain(found)));
        }
        row(&plain(datacenter), format_args!("{state}{more}"));
    }
}

fn origin(head: &Value) -> String {
    format!("in {}, {}", text(&head["origin"]), time(&head["version"]))
}

pub(super) fn gaps(answer: &Value) {
    let gaps = answer["gaps"].as_array().map_or(&[][..], Vec::as_slice);
    if gaps.is_empty() {
        say!("{} in {}", good("no gaps"), text(&answer["datacenter"]));
        return;
    }
    for gap in gaps {
        say!("{} {}", text(&gap["domain"]), strong(text(&gap["key"])));
        let last_error = gap["last_error"].as_str().unwrap_or_default();
        say!("  {}", bad(plain(last_error)));
        say!(
            "  {}",
            faint(format!(
                "since {}, tried {} times, again at {}",
                text(&gap["since"]),
                gap["attempts"],
                text(&gap["next_try"])
            ))
        );
    }
    let count = answer["count"].as_u64().unwrap_or_default();
    if count > gaps.len() as u64 {
        say!("… and {} more", grouped(count - gaps.len() as u64));
    }
}

pub(super) fn row(name: &str, what: impl std::fmt::Display) {
    say!("  {name:<11} {what}");
}

pub(super) fn text(value: &Value) -> String {
    match value {
        Value::String(text) => plain(text),
        Value::Null => "none".to_owned(),
        other => plain(&other.to_string()),
    }
}

/// A version as a time.
fn time(version: &Value) -> String {
    let version = crate::version::Version(version.as_i64().unwrap_or_default());
    crate::api::rfc3339(version)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_time_left_is_told_in_one_unit() {
        let cases = [
            (0.0, "0 s"),
            (12.2, "13 s"),
            (90.0, "90 s"),
            (91.0, "2 min"),
            (5_400.0, "90 min"),
            (5_401.0, "2 h"),
            (172_801.0, "3 days"),
            (1e9, "11,575 days"),
        ];
        for (seconds, told) in cases {
            assert_eq!(about(seconds), told, "{seconds}");
        }
    }

    #[test]
    fn a_scan_tells_what_is_known_of_it() {
        let cases = [
            (json!({}), None),
            (json!({ "percent": 100.0, "began": null }), None),
            (
                json!({ "percent": 12.7, "began": 5, "files_per_second": null }),
                Some("at 12 %"),
            ),
            (
                json!({ "percent": 99.9, "began": 5, "files_per_second": 0.44, "seconds_left": 61.0 }),
                Some("at 99 %, 0.4 files/s, 61 s left"),
            ),
            (
                json!({ "percent": 12.0, "began": 5, "files_per_second": 3400.2, "seconds_left": 119.0 }),
                Some("at 12 %, 3,400 files/s, 2 min left"),
            ),
        ];
        for (scan, told) in cases {
            assert_eq!(describe_scan(&scan).as_deref(), told, "{scan}");
        }
    }
}
