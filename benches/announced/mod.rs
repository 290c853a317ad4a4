//! What delivery writes, for benches of ledgers.

use phylactery::file::{Class, ClassCell, Content, Fid, Held, Op, Put, Replica, Revision};
use phylactery::ledger::FileWrite;
use phylactery::version::Version;

/// What a put through the proxy tells: head, class and the own replica.
pub fn write(version: i64) -> FileWrite {
    let name = |text: &str| text.parse().expect("a short name");
    let content = Content {
        version: Version(version),
        origin: name("ma01"),
        node: "node1".parse().expect("a short name"),
    };
    let class = Class::default_class();
    let fid = Fid(version as u64);
    FileWrite {
        head: Some(Revision {
            version: content.version,
            origin: content.origin.clone(),
            node: content.node.clone(),
            op: Op::Put(Put {
                content: content.clone(),
                size: 100_000,
                checksum: None,
                fid,
                renamed_from: None,
            }),
        }),
        class: Some(ClassCell {
            version: content.version,
            content: content.clone(),
            class: class.clone(),
        }),
        replica: Some((
            content.origin.clone(),
            Replica {
                since: content.version,
                held: Some(Held {
                    content,
                    fid,
                    class,
                    claimed: false,
                    checked: None,
                    leaving: false,
                }),
            },
        )),
    }
}
