//! A disk that is full, one that is slow, and one that lies: refusals before anything happens, and nothing lost.
//!
//! Each test runs in a child, for limits and injected errors hold for a whole process.

use std::time::Duration;

use phylactery::journal::{Journal, JournalError, Outcome, Refused};
use tempfile::tempdir;

use super::{
    Worker, announcement, assert_memory_agrees, entries, file, folder_of_child, intend, intended,
    open, outbox, put, until,
};

/// Runs the test `name` of this file again as a child in a fresh folder.
fn in_child(name: &str) {
    let folder = tempdir().expect("a folder");
    Worker::start(&format!("disk::{name}"), folder.path(), 0).finish();
}

fn block_on(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(work);
}

fn refusal<T>(result: Result<T, Refused>) -> String {
    match result {
        Err(Refused::Unwritable(why)) => why,
        Err(other) => panic!("refused otherwise: {other}"),
        Ok(_) => panic!("not refused"),
    }
}

fn limit_files(bytes: libc::rlim_t) {
    let limit = libc::rlimit {
        rlim_cur: bytes,
        rlim_max: libc::RLIM_INFINITY,
    };
    #[expect(unsafe_code, reason = "there is no safe way to set a limit")]
    // SAFETY: the limit is a valid struct that outlives the call.
    let set = unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &limit) };
    assert_eq!(set, 0);
}

#[test]
fn a_full_disk_refuses_until_there_is_room_and_loses_nothing() {
    let Some((folder, _)) = folder_of_child() else {
        return in_child("a_full_disk_refuses_until_there_is_room_and_loses_nothing");
    };
    block_on(async {
        let journal = open(&folder);
        limit_files(160 << 10);
        let mut held = Vec::new();
        let why = loop {
            match intend(&journal, put(&format!("{:09}", held.len()))).await {
                Ok(intent) => held.push(intent),
                refused => break refusal(refused),
            }
            assert!(held.len() < 100_000, "the limit was not felt");
        };
        println!("after {}: {why}", held.len());
        assert!(!why.is_empty());
        // The log was begun anew where that made room: more fits than one log of this size has.
        assert!(
            held.len() > 200,
            "refused though there was room for more: {}",
            held.len()
        );
        refusal(journal.writable());

        // What is known can be read and what happens is remembered, though nothing can be written.
        let acknowledged: Vec<_> = held
            .iter()
            .map(phylactery::journal::Intent::version)
            .collect();
        assert_eq!(entries(&journal).await.len(), held.len());
        assert_eq!(
            journal.depth().open,
            held.len() as u64,
            "the refused one is not counted"
        );
        held.into_iter()
            .for_each(|intent| intent.outcome(Outcome::Happened));
        refusal(intend(&journal, put("refused")).await);
        let seq = entries(&journal).await[0].seq;
        let settled = vec![(
            seq,
            vec![announcement(file("000000000"), acknowledged[0], true)],
        )];
        let failed = journal
            .announce(settled.clone())
            .await
            .expect_err("there is no room");
        assert!(matches!(failed, JournalError::Failed { .. }));
        assert_eq!(journal.last_number(), 0);

        // There is room again, and nobody says so.
        limit_files(libc::RLIM_INFINITY);
        until("recovery", async || {
            (
                journal.depth().open == 0 && journal.writable().is_ok(),
                journal.writable(),
            )
        })
        .await;
        assert!(
            entries(&journal)
                .await
                .iter()
                .all(|entry| entry.outcome == Some(Outcome::Happened))
        );
        journal.announce(settled).await.expect("announced");
        assert_eq!(outbox(&journal).await[0].number, Some(1));
        intended(&journal, put("more"))
            .await
            .outcome(Outcome::Happened);
        until("rest", async || {
            (journal.depth().open == 0, journal.depth())
        })
        .await;
        assert_memory_agrees(&journal).await;
        journal.close().await;
        let journal = open(&folder);
        let mut found: Vec<_> = entries(&journal)
            .await
            .iter()
            .map(|entry| entry.version)
            .collect();
        assert_eq!(found.len(), acknowledged.len());
        found.pop();
        assert_eq!(found, acknowledged[1..]);
        assert_memory_agrees(&journal).await;
    });
}

#[test]
fn a_failed_transaction_leaves_no_trace_and_keeps_what_nobody_repeats() {
    let Some((folder, _)) = folder_of_child() else {
        return in_child("a_failed_transaction_leaves_no_trace_and_keeps_what_nobody_repeats");
    };
    block_on(async {
        let journal = open(&folder);
        let (kept, gone) = (
            intended(&journal, put("a")).await,
            intended(&journal, put("b")).await,
        );
        intended(&journal, put("c"))
            .await
            .outcome(Outcome::Happened);
        let seq = entries(&journal).await[2].seq;
        let version = entries(&journal).await[2].version;
        journal
            .announce(vec![(seq, vec![announcement(file("c"), version, true)])])
            .await
            .expect("announced");
        let id = outbox(&journal).await[0].id;

        fail::cfg("journal::write", "return(13)").expect("armed");
        let before = journal.depth();
        let why = refusal(intend(&journal, put("refused")).await);
        assert!(why.contains("full"), "{why}");
        kept.outcome(Outcome::Happened);
        gone.outcome(Outcome::DidNotHappen);
        journal.confirm(vec![id], false).await.expect("kept");
        assert!(outbox(&journal).await.is_empty(), "delivery goes on");
        refusal(intend(&journal, put("refused")).await);
        assert_eq!(journal.depth(), before);
        assert_eq!(journal.standing(&file("refused")), Default::default());

        fail::remove("journal::write");
        until("recovery", async || {
            (journal.depth().entries == 1, journal.depth())
        })
        .await;
        journal.writable().expect("it can be written again");
        assert_eq!(entries(&journal).await[0].outcome, Some(Outcome::Happened));
        assert_memory_agrees(&journal).await;
        assert_eq!(journal.last_number(), 1);
    });
}

#[test]
fn after_a_failed_sync_nothing_is_taken_until_the_next_start() {
    let Some((folder, _)) = folder_of_child() else {
        return in_child("after_a_failed_sync_nothing_is_taken_until_the_next_start");
    };
    block_on(async {
        let journal = open(&folder);
        let held = intended(&journal, put("a")).await;
        let version = held.version();
        // SQLITE_IOERR_FSYNC
        fail::cfg("journal::sync", "return(1034)").expect("armed");
        refusal(intend(&journal, put("b")).await);
        fail::remove("journal::sync");
        held.outcome(Outcome::Happened);
        for _ in 0..3 {
            let why = refusal(intend(&journal, put("c")).await);
            assert!(why.contains("restart"), "{why}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        refusal(journal.writable());
        assert!(journal.announce(vec![(1, vec![])]).await.is_err());
        assert!(!entries(&journal).await.is_empty(), "it can still be read");
        journal.close().await;

        let journal: Journal = open(&folder);
        journal.writable().expect("a new start");
        let found = entries(&journal).await;
        assert_eq!(
            (found[0].version, found[0].outcome),
            (version, Some(Outcome::Lost))
        );
        // Whether the one that was refused is there nobody can know; it counts as lost, and the tracker is asked.
        assert!(
            found.len() <= 2
                && found
                    .iter()
                    .all(|entry| entry.outcome == Some(Outcome::Lost))
        );
        intended(&journal, put("d"))
            .await
            .outcome(Outcome::Happened);
    });
}

#[test]
fn what_leaves_the_entries_is_found_in_the_outbox_at_once() {
    let Some((folder, _)) = folder_of_child() else {
        return in_child("what_leaves_the_entries_is_found_in_the_outbox_at_once");
    };
    block_on(async {
        let journal = open(&folder);
        let intent = intended(&journal, put("a")).await;
        let version = intent.version();
        intent.outcome(Outcome::Happened);
        until("an outcome", async || {
            (journal.depth().open == 0, journal.depth())
        })
        .await;
        // Others look while the commit is made and nobody has been told yet.
        fail::cfg("journal::sync", "sleep(300)").expect("armed");
        let announcing = journal.clone();
        let announced = tokio::spawn(async move {
            let say = announcement(file("a"), version, true);
            announcing.announce(vec![(1, vec![say])]).await
        });
        until("an entry that leaves", async || {
            (entries(&journal).await.is_empty(), ())
        })
        .await;
        assert!(!announced.is_finished(), "too late to see anything");
        let found = journal.outgoing_of(&file("a")).await.expect("readable");
        assert_eq!(found.len(), 1);
        assert_eq!(journal.standing(&file("a")).newest, Some(version));
        announced.await.expect("no panic").expect("announced");
        fail::remove("journal::sync");
        assert_memory_agrees(&journal).await;
    });
}
