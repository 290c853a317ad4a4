//! What is told, part by part: the state of the process at the moment of a scrape.
//!
//! Whoever adds a figure says in its HELP what it counts and what is healthy.

use std::collections::BTreeMap;
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use super::page::{Page, count, flag};
use crate::api::gap_count::Counted;
use crate::api::{Context, Proof};
use crate::file::{Datacenter, NodeName};
use crate::journal::debt::Paying;
use crate::journal::{Debts, Depth};
use crate::ledger::ClusterNode;
use crate::proxy::Stats;
use crate::repair::status::{
    Progress, ScanProgress, State, Status, StreamProgress, VerifyProgress,
};
use crate::version::{Version, wall_clock};

/// The state of the process.
#[derive(Debug)]
pub(super) struct Snapshot {
    now: Version,
    datacenter: Datacenter,
    node: NodeName,
    journal: Depth,
    refusing: bool,
    debts: Debts,
    paying: Paying,
    heard: bool,
    cluster: Vec<ClusterNode>,
    gaps: Option<u64>,
    /// Of gaps and streams, where the gaps are known.
    oldest_not_applied: Option<Option<Version>>,
    proof: Proof,
    doubt: bool,
    repair: Status,
    proxy: Stats,
}

impl Snapshot {
    /// What the parts say now, and the gaps as they were counted.
    pub(super) fn take(context: &Context, counted: Option<Counted>) -> Snapshot {
        let vitals = &context.vitals;
        let (debts, paying) = vitals.debts();
        let current = vitals.proof();
        let repair = vitals.repair();
        Snapshot {
            now: wall_clock(),
            datacenter: context.datacenter.clone(),
            node: context.node.clone(),
            journal: vitals.journal(),
            refusing: vitals.refusing().is_some(),
            debts,
            paying,
            heard: vitals.unheard().is_none(),
            cluster: context.ledger.cluster(),
            gaps: counted.map(|counted| counted.gaps),
            oldest_not_applied: counted.map(|counted| {
                let pending = repair.lag.oldest_pending;
                counted.oldest.into_iter().chain(pending).min()
            }),
            proof: match counted {
                // Proved at the time of the count, and nothing has spoken against it since.
                Some(Counted { gaps, proof, .. }) => Proof {
                    in_sync: gaps == 0 && proof.in_sync && current.in_sync,
                    ..proof
                },
                None => Proof {
                    in_sync: false,
                    ..current
                },
            },
            doubt: vitals.doubt().is_some(),
            repair,
            proxy: vitals.proxy(),
        }
    }

    fn of_process(&self, page: &mut Page<'_>) -> fmt::Result {
        page.info(
            "build",
            "The program's version. Healthy: the same in every datacenter, but while it is rolled out.",
            [("version", env!("CARGO_PKG_VERSION"))],
        )?;
        page.info(
            "node",
            "Which node of which datacenter this is. Healthy: each pair is of one process only.",
            [
                ("datacenter", self.datacenter.as_str()),
                ("node", self.node.as_str()),
            ],
        )
    }

    fn of_proof(&self, page: &mut Page<'_>) -> fmt::Result {
        page.gauge(
            "proof_in_sync",
            "1 while it is proved that this datacenter holds all that it should; 0 also while gaps cannot be counted. Healthy: 1.",
            flag(self.proof.in_sync),
        )?;
        page.gauge(
            "proof_as_of_timestamp_seconds",
            "As of when every change was done here, or is among the gaps. Absent: nothing is proved at present. Healthy: a few seconds ago.",
            self.proof.proved_at.map(Version::seconds),
        )?;
        page.gauge(
            "gaps_files",
            "Files that did not come to be here as they should at once. Absent: the ledger cannot be asked. Healthy: 0, or falling.",
            self.gaps.map(count),
        )?;
        page.gauge(
            "oldest_not_applied_age_seconds",
            "How old the oldest change is that is neither done here nor given up to a scan, gaps included; 0 if there is none. Absent: the ledger cannot be asked. Healthy: below the lag goal of the placement, 15 minutes where none is set.",
            self.oldest_not_applied.map(|oldest| self.age(oldest)),
        )?;
        page.gauge(
            "trust_in_doubt",
            "1 while ledger and journal disagree, so that repair waits for a person (`phylactery accept`). Healthy: 0.",
            flag(self.doubt),
        )
    }

    fn of_journal(&self, page: &mut Page<'_>) -> fmt::Result {
        let depth = &self.journal;
        page.gauge(
            "journal_undelivered_entries",
            "Intents and announcements that the ledger has not confirmed. Healthy: what is stored in a second; does not keep growing.",
            count(depth.entries),
        )?;
        page.gauge(
            "journal_open_intents",
            "Intents whose outcome is not known, those under way included. Healthy: about the mutations under way; does not keep growing.",
            count(depth.open),
        )?;
        page.gauge(
            "journal_undelivered_bytes",
            "What they take, as journal.max_size counts it. Healthy: far below journal.max_size.",
            count(depth.bytes),
        )?;
        page.gauge(
            "journal_oldest_undelivered_age_seconds",
            "How long the oldest of them waits; 0 if there is none. Healthy: below a few seconds.",
            self.age(depth.oldest),
        )?;
        page.gauge(
            "journal_oldest_open_intent_age_seconds",
            "How long the oldest open intent waits for its outcome; 0 if there is none. Healthy: below a minute.",
            self.age(depth.oldest_open),
        )?;
        page.gauge(
            "journal_refusing_mutations",
            "1 while clients' mutations are refused: the journal is full, or its disk fails. Healthy: 0.",
            flag(self.refusing),
        )
    }

    fn of_debts(&self, page: &mut Page<'_>) -> fmt::Result {
        page.gauge(
            "debts_owed_files",
            "Files that the ledger has, but not yet on as many copies as ledger.write_consistency wants. Healthy: near 0; grows while a copy of the ledger is away.",
            count(self.debts.count),
        )?;
        page.gauge(
            "debts_oldest_age_seconds",
            "How old the oldest of them is; 0 if there is none. Healthy: below a minute.",
            self.age(self.debts.oldest),
        )?;
        page.gauge(
            "debts_collapsed_since_timestamp_seconds",
            "There were too many to count: all that has changed since then is owed. Healthy: absent.",
            self.debts.collapsed_since.map(Version::seconds),
        )?;
        page.gauge(
            "debts_walk_progress_ratio",
            "How far the walk over all files is that pays what has collapsed. Absent: there is none. Healthy: absent, or growing.",
            self.paying.walk_percent.map(ratio),
        )?;
        page.counter(
            "debts_paid_files",
            "Files asserted on every copy after they were owed. Healthy: grows while something is owed.",
            self.paying.paid,
        )?;
        page.gauge(
            "debts_failing_since_timestamp_seconds",
            "Since when paying fails. Healthy: absent.",
            self.paying.failing_since.map(Version::seconds),
        )?;
        page.gauge(
            "debts_set_aside_files",
            "Files that cannot be paid as they are; status names them. Healthy: 0.",
            count(self.paying.set_aside),
        )
    }

    fn of_ledger(&self, page: &mut Page<'_>) -> fmt::Result {
        page.gauge(
            "ledger_up",
            "1 if the ledger heard this node when it last spoke, which it does every second. Healthy: 1.",
            flag(self.heard),
        )?;
        let mut nodes: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        for node in &self.cluster {
            let datacenter = node.datacenter.as_deref().unwrap_or_default();
            let (all, away) = nodes.entry(datacenter).or_default();
            *all += 1;
            *away += u64::from(!node.reached);
        }
        let of = |figure: fn(&(u64, u64)) -> u64| {
            let nodes = nodes.iter();
            nodes.map(move |(&datacenter, counts)| {
                ([("datacenter", datacenter)], count(figure(counts)))
            })
        };
        page.gauges(
            "ledger_nodes",
            "Nodes of the cluster that is the ledger, by the cluster's own datacenters. Absent: the ledger is in one piece, or not open yet. Healthy: as many as there should be.",
            of(|(all, _)| *all),
        )?;
        page.gauges(
            "ledger_unreachable_nodes",
            "Those of them that are not reached from here. Healthy: 0.",
            of(|(_, away)| *away),
        )
    }

    fn of_repair(&self, page: &mut Page<'_>) -> fmt::Result {
        let workers = &self.repair.workers;
        page.counters(
            "repair_done_files",
            "Files that a worker has seen to, whether or not there was anything to do. Healthy: grows while others store.",
            workers.iter().map(|worker| ([("worker", worker.name)], worker.done)),
        )?;
        page.counters(
            "repair_failed_attempts",
            "Attempts of a worker that failed. Healthy: hardly grows.",
            workers
                .iter()
                .map(|worker| ([("worker", worker.name)], worker.failed)),
        )?;
        let states = workers.iter().flat_map(|worker| {
            State::ALL.into_iter().map(|state| {
                let labels = [("worker", worker.name), ("state", state.word())];
                (labels, flag(worker.state == state))
            })
        });
        page.gauges(
            "repair_worker_state",
            "1 for what a worker is doing, 0 for what it is not. Healthy: 1 for running or idle.",
            states,
        )?;
        page.gauge(
            "repair_copies_in_flight",
            "Files that are being copied now. Healthy: 0 to repair.copies_at_once.",
            count(self.repair.copies_in_flight),
        )?;
        page.counter(
            "repair_copied_files",
            "Files copied from other datacenters. Healthy: grows while others store.",
            self.repair.files_copied,
        )?;
        page.counter(
            "repair_copied_bytes",
            "Bytes stored by copies, those given up included. Healthy: grows while others store.",
            self.repair.bytes_copied,
        )?;
        let lag = &self.repair.lag;
        let here = self.datacenter.as_str();
        page.histograms(
            "repair_lag_seconds",
            "From a change in one datacenter until it is done in the other, which is this one; clocks count, as they are. Healthy: most within a second or two, all within the lag goal of the placement.",
            lag.from.iter().map(|(from, lag)| {
                ([("from", from.as_str()), ("to", here)], lag)
            }),
        )?;
        page.counter(
            "repair_missed_goal_files",
            "Files that were not as they should be when the lag goal of their placement was over. Healthy: does not grow.",
            lag.missed,
        )?;
        page.counter(
            "repair_came_late_files",
            "Those of them that have come. Healthy: catches up with those that have missed it.",
            lag.came_late,
        )?;
        for worker in workers {
            match &worker.progress {
                Progress::None => {}
                Progress::Tail(streams) => of_streams(streams, page)?,
                Progress::Scan(scan) => of_scan(scan, page)?,
                Progress::Verify(verify) => of_verify(verify, page)?,
            }
        }
        Ok(())
    }

    fn of_proxy(&self, page: &mut Page<'_>) -> fmt::Result {
        let proxy = &self.proxy;
        page.gauge(
            "proxy_connections",
            "Clients connected now. Healthy: below proxy.max_connections.",
            count(proxy.connections as u64),
        )?;
        page.gauge(
            "proxy_dedicated_connections",
            "Clients with an upstream connection of their own. Healthy: few.",
            count(proxy.dedicated as u64),
        )?;
        page.counter(
            "proxy_accepted_connections",
            "Clients accepted. Healthy: grows with use.",
            proxy.accepted,
        )?;
        page.counter(
            "proxy_turned_away_connections",
            "Clients turned away because there were too many. Healthy: does not grow.",
            proxy.turned_away,
        )?;
        page.counter(
            "proxy_requests",
            "Requests served. Healthy: grows with use.",
            proxy.requests,
        )?;
        page.counter(
            "proxy_mutations",
            "Mutations whose intent was written. Healthy: grows as clients store.",
            proxy.mutations,
        )?;
        page.counter(
            "proxy_refused_mutations",
            "Mutations refused because the journal would not take them. Healthy: does not grow.",
            proxy.refused_mutations,
        )?;
        let upstream = [
            ([("state", "in_use")], count(proxy.upstream_in_use as u64)),
            ([("state", "idle")], count(proxy.upstream_idle as u64)),
        ];
        page.gauges(
            "proxy_upstream_connections",
            "Shared connections to the trackers, as of a moment ago. Healthy: those in use stay below proxy.upstream_connections.",
            upstream,
        )?;
        let trackers = proxy.trackers.iter();
        page.gauges(
            "proxy_tracker_up",
            "1 while requests go to this tracker, 0 while it is left out. Healthy: 1.",
            trackers.map(|tracker| ([("tracker", tracker.name.as_str())], flag(tracker.up))),
        )
    }

    /// Seconds from then until now; none where there is nothing that could be old.
    fn age(&self, of: Option<Version>) -> f64 {
        let age = of.map(|of| self.now.seconds() - of.seconds());
        // A version may be ahead of the wall clock.
        age.unwrap_or_default().max(0.0)
    }
}

fn of_streams(streams: &BTreeMap<String, StreamProgress>, page: &mut Page<'_>) -> fmt::Result {
    let each = |figure: fn(&StreamProgress) -> f64| {
        let streams = streams.iter();
        streams.map(move |(stream, progress)| ([("stream", stream.as_str())], figure(progress)))
    };
    page.gauges(
        "repair_stream_behind_changes",
        "Changes of another node's stream that are not yet done or parked here. Healthy: what is stored in a second; does not keep growing.",
        each(|stream| count(stream.behind)),
    )?;
    page.gauges(
        "repair_stream_hole",
        "1 while a number is missing from the stream, so that its reader waits for it. Healthy: 0, but for moments.",
        each(|stream| flag(stream.hole.is_some())),
    )?;
    // One that has never been heard has no time.
    let heard = streams.iter().filter(|(_, at)| at.heartbeat > Version(0));
    page.gauges(
        "repair_stream_heartbeat_timestamp_seconds",
        "When the stream's node last spoke. Absent: it was never heard. Healthy: a second ago, unless the stream was left.",
        heard.map(|(stream, at)| ([("stream", stream.as_str())], at.heartbeat.seconds())),
    )
}

fn of_scan(scan: &ScanProgress, page: &mut Page<'_>) -> fmt::Result {
    page.gauge(
        "repair_scan_progress_ratio",
        "How far the scan of all files is; 1 between scans. Healthy: 1, or growing.",
        ratio(scan.percent),
    )?;
    page.gauge(
        "repair_scan_files_per_second",
        "Files that the scan reads in a second. Absent: none is under way, or it has just begun. Healthy: absent, or above 0.",
        scan.files_per_second,
    )?;
    page.gauge(
        "repair_scan_left_seconds",
        "How long the rest of the scan takes if it goes on like that. Absent: as above. Healthy: absent, or falling.",
        scan.seconds_left,
    )?;
    page.gauge(
        "repair_scan_ended_timestamp_seconds",
        "When the last whole scan ended. Absent: there was none. Healthy: not much longer ago than repair.scan_every.",
        scan.ended.map(Version::seconds),
    )?;
    page.counter(
        "repair_scan_purged_files",
        "Files forgotten: deleted so long ago that nobody can have missed it. Healthy: any.",
        scan.purged,
    )
}

fn of_verify(verify: &VerifyProgress, page: &mut Page<'_>) -> fmt::Result {
    page.gauge(
        "repair_verify_progress_ratio",
        "How far verify is, which looks whether the files that should be here are; 1 between passes. Healthy: 1, or growing.",
        ratio(verify.percent),
    )?;
    page.gauge(
        "repair_verify_files_per_second",
        "Files that verify looks at in a second. Absent: no pass is under way, or it has just begun. Healthy: absent, or near repair.verify_rate.",
        verify.files_per_second,
    )?;
    page.gauge(
        "repair_verify_left_seconds",
        "How long the rest of the pass takes if it goes on like that. Absent: as above. Healthy: absent, or falling.",
        verify.seconds_left,
    )?;
    page.gauge(
        "repair_verify_ended_timestamp_seconds",
        "When the last whole pass ended. Absent: there was none. Healthy: not much longer ago than repair.verify_every.",
        verify.ended.map(Version::seconds),
    )?;
    page.gauge(
        "repair_verify_stopped_timestamp_seconds",
        "Since when verify has stopped, because more is missing or damaged than it believes; status says what to look at. Healthy: absent.",
        verify.stopped.map(Version::seconds),
    )?;
    page.gauge(
        "repair_verify_looked_at_files",
        "Files of which it could be said whether they are as they should be, in the pass under way or the last one. Healthy: grows in a pass.",
        count(verify.looked_at),
    )?;
    page.gauge(
        "repair_verify_missing_files",
        "Of these, files that the tracker did not know any more. Healthy: 0.",
        count(verify.missing),
    )?;
    page.gauge(
        "repair_verify_damaged_files",
        "Of these, files whose bytes were others, or were not there. Healthy: 0.",
        count(verify.damaged),
    )?;
    page.gauge(
        "repair_verify_brought_again_files",
        "Of those two, files that were brought again at once. Healthy: as many as both together.",
        count(verify.brought_again),
    )?;
    page.gauge(
        "repair_verify_unsure_files",
        "Files of which nothing could be said, in the same pass. Healthy: few, or a storage node is away.",
        count(verify.unsure),
    )
}

/// A share as Prometheus has it: of 1, not of 100.
fn ratio(percent: f64) -> f64 {
    percent / 100.0
}

impl Collector for Snapshot {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let page = &mut Page(encoder);
        self.of_process(page)?;
        self.of_proof(page)?;
        self.of_journal(page)?;
        self.of_debts(page)?;
        self.of_ledger(page)?;
        self.of_repair(page)?;
        self.of_proxy(page)
    }
}
