//! One node: its settings, its process, and the signals that a test sends it.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};
use uuid::Uuid;

use super::addresses::NATIVE_PORT;
use super::certificates::Certificates;
use super::software::{Software, fixtures};
use super::{NodeOptions, Tls, spawner};

/// A node of a cluster. Its process ends with it.
#[derive(Debug)]
pub struct Node {
    /// Its place in the cluster, from 0.
    pub index: usize,
    /// Its datacenter's name.
    pub datacenter: &'static str,
    /// Where its part of the ring ends.
    pub token: i64,
    address: Ipv4Addr,
    folder: PathBuf,
    software: Software,
    process: Mutex<Process>,
    /// The schema that it has on disk, by its version.
    pub(super) schema_on_disk: Mutex<Option<Uuid>>,
}

/// What its process does.
#[derive(Debug)]
enum Process {
    Dead,
    Running(Child, JmxPort),
    Stopped(Child, JmxPort),
}

type JmxPort = u16;

/// What a whole cluster agrees on.
pub(super) struct Plan<'a> {
    pub seeds: String,
    pub options: &'a NodeOptions,
    pub certificates: Option<&'a Certificates>,
    pub software: &'a Software,
}

impl Node {
    /// Writes its settings into a new folder under `home`; starts nothing.
    pub(super) fn prepare(
        index: usize,
        datacenter: &'static str,
        token: i64,
        address: Ipv4Addr,
        home: &Path,
        plan: &Plan<'_>,
    ) -> std::io::Result<Node> {
        let folder = home.join(format!("node{index}"));
        for part in ["conf", "data", "logs", "tmp"] {
            fs::create_dir_all(folder.join(part))?;
        }
        let node = Node {
            index,
            datacenter,
            token,
            address,
            folder,
            software: plan.software.clone(),
            process: Mutex::new(Process::Dead),
            schema_on_disk: Mutex::default(),
        };
        let conf = node.conf();
        fs::write(conf.join("cassandra.yaml"), node.yaml(plan)?)?;
        let rack = format!("dc={datacenter}\nrack=r1\n");
        fs::write(conf.join("cassandra-rackdc.properties"), rack)?;
        fs::copy(fixtures().join("logback.xml"), conf.join("logback.xml"))?;
        Ok(node)
    }

    fn yaml(&self, plan: &Plan<'_>) -> std::io::Result<String> {
        let common = fs::read_to_string(fixtures().join("cassandra.yaml"))?;
        let (seeds, address, token) = (&plan.seeds, self.address, self.token);
        // Every node is a seed: none needs another one to start again.
        let mut yaml = format!(
            "cluster_name: phylactery tests\ninitial_token: \"{token}\"\n\
             seed_provider: [{{class_name: org.apache.cassandra.locator.SimpleSeedProvider, parameters: [{{seeds: \"{seeds}\"}}]}}]\n\
             listen_address: {address}\nrpc_address: {address}\n"
        );
        let (authenticator, authorizer) = match plan.options.passwords {
            true => ("PasswordAuthenticator", "CassandraAuthorizer"),
            false => ("AllowAllAuthenticator", "AllowAllAuthorizer"),
        };
        yaml += &format!("authenticator: {authenticator}\nauthorizer: {authorizer}\n");
        if let Some(files) = plan.certificates {
            let (node, ca) = (files.node.display(), files.ca.display());
            let clients_show_one = plan.options.tls == Tls::Mutual;
            yaml += &format!(
                "client_encryption_options:\n  enabled: true\n  optional: false\n  require_client_auth: {clients_show_one}\n  \
                 ssl_context_factory:\n    class_name: org.apache.cassandra.security.PEMBasedSslContextFactory\n  \
                 keystore: \"{node}\"\n  truststore: \"{ca}\"\n"
            );
        }
        Ok(yaml + "\n" + &common)
    }

    fn conf(&self) -> PathBuf {
        self.folder.join("conf")
    }

    /// Where clients reach it.
    pub fn native(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.address, NATIVE_PORT)
    }

    /// Its process number, if it has a process.
    pub fn pid(&self) -> Option<u32> {
        match &*self.process.lock() {
            Process::Dead => None,
            Process::Running(child, _) | Process::Stopped(child, _) => Some(child.id()),
        }
    }

    /// Whether it has a process that runs: not killed, not stopped, not ended by itself.
    pub fn is_running(&self) -> bool {
        match &mut *self.process.lock() {
            Process::Running(child, _) => !matches!(child.try_wait(), Ok(Some(_))),
            Process::Dead | Process::Stopped(..) => false,
        }
    }

    /// Starts its process, or lets a stopped one go on; a running one is left alone. Answers later. Whether anything was done.
    pub(super) fn launch(&self) -> std::io::Result<bool> {
        let mut process = self.process.lock();
        match std::mem::replace(&mut *process, Process::Dead) {
            Process::Stopped(child, jmx) => {
                signal(&child, Signal::CONT);
                *process = Process::Running(child, jmx);
            }
            Process::Running(mut child, jmx) => {
                let ended = child.try_wait()?.is_some();
                *process = match ended {
                    true => self.spawn()?,
                    false => Process::Running(child, jmx),
                };
                return Ok(ended);
            }
            Process::Dead => *process = self.spawn()?,
        }
        Ok(true)
    }

    fn spawn(&self) -> std::io::Result<Process> {
        // Another one each time: what asked the last process may keep its port for a while.
        let jmx = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
            .local_addr()?
            .port();
        let (folder, conf) = (self.folder.display(), self.conf());
        let conf = conf.display();
        let mut command = self.java(&["jvm.options", "java17.options"])?;
        command.args([
            format!("-Dcassandra.config=file://{conf}/cassandra.yaml"),
            format!("-Dcassandra.rackdc.properties=file://{conf}/cassandra-rackdc.properties"),
            format!("-Dlogback.configurationFile={conf}/logback.xml"),
            format!("-Dcassandra.storagedir={folder}/data"),
            format!("-Dcassandra.logdir={folder}/logs"),
            format!("-Dcassandra.jmx.local.port={jmx}"),
        ]);
        command.arg("org.apache.cassandra.service.CassandraDaemon");
        let output = File::options()
            .create(true)
            .append(true)
            .open(self.folder.join("logs/output.log"))?;
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        Ok(Process::Running(spawner::spawn(command)?, jmx))
    }

    /// A JVM with the options of these fixtures, the class path, and every folder that it may write to inside the node's own.
    fn java(&self, options: &[&str]) -> std::io::Result<Command> {
        let mut command = Command::new(&self.software.java);
        for file in options {
            let text = fs::read_to_string(fixtures().join(file))?;
            command.args(
                text.lines()
                    .filter(|line| !line.is_empty() && !line.starts_with('#')),
            );
        }
        let folder = self.folder.display();
        let class_path = format!(
            "{}:{}/*",
            self.conf().display(),
            self.software.jars.display()
        );
        command
            .args([
                format!("-Djava.io.tmpdir={folder}/tmp"),
                format!("-Djna.tmpdir={folder}/tmp"),
                format!("-Duser.home={folder}/tmp"),
            ])
            .args(["-cp", &class_path])
            .current_dir(&self.folder)
            // Options from outside are not what these tests were tried with.
            .env_remove("JAVA_TOOL_OPTIONS")
            .env_remove("_JAVA_OPTIONS")
            .env_remove("JDK_JAVA_OPTIONS");
        Ok(command)
    }

    /// `nodetool` with these words; what it printed. Takes seconds: it is a JVM of its own.
    pub fn nodetool(&self, words: &[&str]) -> Result<String, String> {
        let jmx = match &*self.process.lock() {
            Process::Running(_, jmx) => jmx.to_string(),
            Process::Dead | Process::Stopped(..) => {
                return Err(format!("node {} does not run", self.index));
            }
        };
        let words = [&["-h", "127.0.0.1", "-p", &jmx], words].concat();
        self.tool("NodeTool", &words)
    }

    /// What lies on its disk of a table, as `sstabledump` shows it: one JSON text for each file. `nodetool flush` before.
    pub fn sstables(&self, keyspace: &str, table: &str) -> Result<Vec<String>, String> {
        let said = |why: std::io::Error| why.to_string();
        'anew: loop {
            let mut all = Vec::new();
            for file in self.data_files(keyspace, table).map_err(said)? {
                match self.tool("SSTableExport", &[&file.display().to_string()]) {
                    Ok(dump) => all.push(dump),
                    // Compacted into another one meanwhile.
                    Err(_) if !file.exists() => continue 'anew,
                    Err(why) => return Err(why),
                }
            }
            return Ok(all);
        }
    }

    fn data_files(&self, keyspace: &str, table: &str) -> std::io::Result<Vec<PathBuf>> {
        let mut all = Vec::new();
        for folder in fs::read_dir(self.folder.join("data/data").join(keyspace))? {
            let folder = folder?;
            let name = folder.file_name().to_string_lossy().into_owned();
            // The table's name and an id.
            if name.split('-').next() != Some(table) {
                continue;
            }
            for file in fs::read_dir(folder.path())? {
                let file = file?.path();
                if file.to_string_lossy().ends_with("-Data.db") {
                    all.push(file);
                }
            }
        }
        Ok(all)
    }

    /// One of Cassandra's own tools, to its end; what it printed.
    fn tool(&self, class: &str, words: &[&str]) -> Result<String, String> {
        let mut command = self
            .java(&["java17.options"])
            .map_err(|why| why.to_string())?;
        let config = self.conf().join("cassandra.yaml");
        command
            .args(["-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
            .arg(format!("-Dcassandra.config=file://{}", config.display()))
            // Some want one; that of the node is the node's.
            .arg(format!(
                "-Dcassandra.storagedir={}/tmp",
                self.folder.display()
            ))
            .arg(format!("org.apache.cassandra.tools.{class}"))
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let done = spawner::spawn(command).and_then(Child::wait_with_output);
        let done = done.map_err(|why| format!("start {class}: {why}"))?;
        let (out, err) = (
            String::from_utf8_lossy(&done.stdout),
            String::from_utf8_lossy(&done.stderr),
        );
        match done.status.success() {
            true => Ok(out.into_owned()),
            false => Err(format!("{class} {words:?}: {out}{err}")),
        }
    }

    /// `kill -9`, and waits for its end, which takes a moment. Also for a stopped one; a dead one stays dead.
    pub(super) fn kill(&self) {
        let process = std::mem::replace(&mut *self.process.lock(), Process::Dead);
        if let Process::Running(mut child, _) | Process::Stopped(mut child, _) = process {
            let _gone_already = child.kill();
            let _reaped = child.wait();
        }
    }

    /// SIGSTOP: the node hangs, its connections stay open.
    pub(super) fn stop(&self) {
        let mut process = self.process.lock();
        match std::mem::replace(&mut *process, Process::Dead) {
            Process::Running(child, jmx) => {
                signal(&child, Signal::STOP);
                *process = Process::Stopped(child, jmx);
            }
            other => *process = other,
        }
    }

    /// The end of its log, for messages.
    pub fn log(&self) -> String {
        let mut text = format!(
            "--- node {} ({}), the end of its log:\n",
            self.index,
            self.native()
        );
        for name in ["system.log", "output.log"] {
            let log = fs::read_to_string(self.folder.join("logs").join(name)).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            for line in &lines[lines.len().saturating_sub(25)..] {
                text.push_str(line);
                text.push('\n');
            }
        }
        text
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

fn signal(child: &Child, signal: Signal) {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    // It is ours until it was waited for, so the number is nobody else's; one that just ended takes no signal.
    let _gone_already = pid.map(|pid| kill_process(pid, signal));
}
