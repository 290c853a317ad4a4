//! Requests: from a command and its arguments to one line of answer.
//!
//! A command is an async function of the [`Request`] that returns an [`Answer`]; [`run`] knows them
//! all by name. A new command is a function in the file it belongs to and a line in [`dispatch`].

mod files;
mod listing;
mod maintenance;
mod namespace;
mod nodes;
mod perl;
mod settings;
mod uploads;

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use mogilefs_protocol::args::Args;
use mogilefs_protocol::reply;
use mogilefs_protocol::request::Command;

use crate::tracker::answer::{Answer, Refusal};
use crate::tracker::core::Core;
use crate::tracker::topology::{Domain, Topology, Viewer};

/// One request: what it says, who says it, and the tracker it is said to.
pub struct Request<'a> {
    core: &'a Arc<Core>,
    /// Domains and devices as they were when the request came.
    topology: Arc<Topology>,
    args: Args<'a>,
    viewer: Viewer,
}

/// Executes a command. The answer is a whole line.
pub async fn run(core: &Arc<Core>, command: Command<'_>, client: IpAddr) -> Bytes {
    let args = command.args();
    let viewer = Viewer {
        client,
        alt_zone: args.get("zone").as_deref() == Some(b"alt"),
    };
    let request = Request {
        core,
        topology: core.topology(),
        args,
        viewer,
    };
    let name = command.name.to_ascii_lowercase();
    let answer = dispatch(&name, &request).await;
    let callid = args.get("callid");
    match answer {
        Ok(fields) => {
            let callid = callid.as_deref().map(|callid| ("callid", callid));
            reply::ok(
                fields
                    .iter()
                    .filter(|(name, _)| *name != "callid")
                    .chain(callid),
            )
        }
        Err(Refusal { code, text }) => {
            if code == "failure" {
                core.activity.complain(&format!(
                    "[queryworker({})] Error running command '{}': {text}",
                    std::process::id(),
                    name.escape_ascii(),
                ));
            }
            reply::err(code, &text, callid.as_deref())
        }
    }
}

/// What a line without a command word is told.
pub fn unknown_command() -> Bytes {
    let Refusal { code, text } = Refusal::new("unknown_command");
    reply::err(code, &text, None)
}

/// Each command has its own box, so that waiting for one costs only what that one needs.
async fn dispatch(name: &[u8], request: &Request<'_>) -> Answer {
    match name {
        b"create_open" => Box::pin(uploads::create_open(request)).await,
        b"create_close" => Box::pin(uploads::create_close(request)).await,
        b"get_paths" => Box::pin(files::get_paths(request)).await,
        b"file_info" => Box::pin(files::file_info(request)).await,
        b"file_debug" => Box::pin(files::file_debug(request)).await,
        b"delete" => Box::pin(files::delete(request)).await,
        b"rename" => Box::pin(files::rename(request)).await,
        b"updateclass" => Box::pin(files::updateclass(request)).await,
        b"edit_file" => files::edit_file(request),
        b"list_keys" => Box::pin(listing::list_keys(request)).await,
        b"list_fids" => Box::pin(listing::list_fids(request)).await,

        b"get_domains" => Ok(namespace::get_domains(request)),
        b"create_domain" => Box::pin(namespace::create_domain(request)).await,
        b"delete_domain" => Box::pin(namespace::delete_domain(request)).await,
        b"create_class" => Box::pin(namespace::change_class(request, false)).await,
        b"update_class" => Box::pin(namespace::change_class(request, true)).await,
        b"delete_class" => Box::pin(namespace::delete_class(request)).await,

        b"get_hosts" => Ok(nodes::get_hosts(request)),
        b"create_host" => Box::pin(nodes::change_host(request, false)).await,
        b"update_host" => Box::pin(nodes::change_host(request, true)).await,
        b"delete_host" => Box::pin(nodes::delete_host(request)).await,
        b"get_devices" => Ok(nodes::get_devices(request)),
        b"create_device" => Box::pin(nodes::create_device(request)).await,
        b"set_state" => Box::pin(nodes::set_state(request)).await,
        b"set_weight" => Box::pin(nodes::set_weight(request)).await,

        b"server_setting" => Box::pin(settings::server_setting(request)).await,
        b"server_settings" => Box::pin(settings::server_settings(request)).await,
        b"set_server_setting" => Box::pin(settings::set_server_setting(request)).await,

        b"noop" | b"do_monitor_round" => Ok(Default::default()),
        b"test" => maintenance::test(request),
        b"sleep" => Box::pin(maintenance::sleep(request)).await,
        b"clear_cache" => Ok(maintenance::clear_cache(request)),
        b"replicate_now" => Box::pin(maintenance::replicate_now(request)).await,
        b"fsck_status" => Box::pin(maintenance::fsck_status(request)).await,
        b"fsck_reset" => Box::pin(maintenance::fsck_reset(request)).await,
        b"fsck_stop" => Box::pin(maintenance::fsck_stop(request)).await,
        b"fsck_clearlog" => Ok(Default::default()),
        b"fsck_getlog" => Ok(maintenance::fsck_getlog()),
        b"fsck_start" => Err(maintenance::not_done("fsck")),
        b"rebalance_status" => Err(Refusal::new("no_rebal_state")),
        b"rebalance_test" | b"rebalance_start" => Err(Refusal::new("no_rebal_policy")),
        b"rebalance_stop" => Err(Refusal::new("rebal_not_started")),
        b"rebalance_reset" => Ok(Default::default()),
        b"rebalance_set_policy" => Err(maintenance::not_done("rebalance")),
        b"httpcopy" => Err(maintenance::not_done("httpcopy")),
        _ => Err(Refusal::new("unknown_command")),
    }
}

impl Request<'_> {
    /// The domain that the request names.
    fn domain(&self) -> Result<&Domain, Refusal> {
        let name = self.args.get("domain").filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| Refusal::new("no_domain"))?;
        self.topology
            .domain(&name)
            .ok_or_else(|| Refusal::new("unreg_domain"))
    }

    /// The key that the request names.
    fn key(&self) -> Result<Vec<u8>, Refusal> {
        perl::non_empty(self.args, "key").ok_or_else(|| Refusal::new("no_key"))
    }
}
