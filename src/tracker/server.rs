//! The line protocol: connections, and the one loop that serves each.
//!
//! Always true: of one connection at most one request runs, and answers go out in the order of the
//! requests. A request that has begun is completed, whether or not the client is still there. A last
//! line without an end is never executed.
//!
//! An idle connection holds no buffer.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use mogilefs_protocol::line::{Line, Next, Scanner};
use mogilefs_protocol::reply;
use mogilefs_protocol::request::{self, Kind};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;
use tokio_util::task::TaskTracker;

use crate::tracker::core::Core;
use crate::tracker::{admin, commands};

/// As much as one read takes.
const READ_SIZE: usize = 64 << 10;

/// A client that does not take its answers for so long is dropped.
const WRITE_TIMEOUT: Duration = Duration::from_secs(120);

/// After a refused line: how long its sender may still send before it has read why.
const LINGER: Duration = Duration::from_secs(2);

/// Accepts connections until the tracker is to stop.
pub async fn serve(core: Arc<Core>, listener: TcpListener, connections: TaskTracker) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = core.shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let core = Arc::clone(&core);
                connections.spawn(async move {
                    let client = peer.ip().to_canonical();
                    match Connection::new(core, stream, client).serve().await {
                        Ok(closed) => tracing::debug!(%peer, ?closed, "connection closed"),
                        Err(error) => tracing::debug!(%peer, %error, "connection lost"),
                    }
                });
            }
            Err(error) => {
                // Out of descriptors, most likely: some will be free again in a moment.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Why a connection ended in order.
#[derive(Debug)]
enum Closed {
    ByClient,
    LineTooLong,
    ShuttingDown,
}

struct Connection {
    core: Arc<Core>,
    stream: TcpStream,
    client: IpAddr,
    buffer: BytesMut,
    scanner: Scanner,
    watching: Option<broadcast::Receiver<Bytes>>,
}

impl Connection {
    fn new(core: Arc<Core>, stream: TcpStream, client: IpAddr) -> Connection {
        let scanner = Scanner::new(core.config.max_line);
        Connection {
            core,
            stream,
            client,
            buffer: BytesMut::new(),
            scanner,
            watching: None,
        }
    }

    async fn serve(mut self) -> io::Result<Closed> {
        self.stream.set_nodelay(true)?;
        loop {
            match self.scanner.next(&mut self.buffer) {
                Next::Line(line) => {
                    if self.core.shutdown.is_cancelled() {
                        return Ok(Closed::ShuttingDown);
                    }
                    // In a box: what a request needs is not needed while there is none.
                    Box::pin(self.answer(line)).await?;
                }
                Next::Incomplete => {
                    if let Some(closed) = self.fill().await? {
                        return Ok(closed);
                    }
                }
                Next::TooLong => {
                    Box::pin(self.refuse_line()).await?;
                    return Ok(Closed::LineTooLong);
                }
            }
        }
    }

    /// Reads more, or passes on what was watched for meanwhile.
    async fn fill(&mut self) -> io::Result<Option<Closed>> {
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
        tokio::select! {
            biased;
            () = self.core.shutdown.cancelled() => return Ok(Some(Closed::ShuttingDown)),
            seen = next_watched(&mut self.watching) => self.send(&seen).await?,
            ready = self.stream.readable() => {
                ready?;
                self.buffer.reserve(READ_SIZE);
                match self.stream.try_read_buf(&mut self.buffer) {
                    Ok(0) => return Ok(Some(Closed::ByClient)),
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(None)
    }

    async fn answer(&mut self, line: Line) -> io::Result<()> {
        let text = line.text();
        let answer = match request::parse(text) {
            Kind::Empty => return Ok(()),
            Kind::Admin(line) => match admin::run(&self.core, line).await {
                admin::Outcome::Reply(answer) => answer,
                admin::Outcome::ToggleWatch => self.toggle_watch(),
                admin::Outcome::Shutdown => {
                    tracing::info!(client = %self.client, "a client asked for shutdown");
                    self.core.shutdown.cancel();
                    return Ok(());
                }
            },
            Kind::Command(command) => {
                let request = commands::run(&self.core, command, self.client);
                self.core.activity.run(self.client, text, request).await
            }
            Kind::Unknown => {
                self.core
                    .activity
                    .run(self.client, text, async { commands::unknown_command() })
                    .await
            }
        };
        while let Some(seen) = self
            .watching
            .as_mut()
            .and_then(|watching| watching.try_recv().ok())
        {
            self.send(&seen).await?;
        }
        self.send(&answer).await
    }

    fn toggle_watch(&mut self) -> Bytes {
        match self.watching.take() {
            Some(_) => reply::admin(["Removed you from watcher list."]),
            None => {
                self.watching = Some(self.core.activity.watch());
                reply::admin(["Added you to watcher list."])
            }
        }
    }

    async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        tokio::time::timeout(WRITE_TIMEOUT, self.stream.write_all(bytes))
            .await
            .unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Says why, and lets the client read it: closing at once would throw the answer away together
    /// with what it is still sending.
    async fn refuse_line(&mut self) -> io::Result<()> {
        tracing::warn!(client = %self.client, limit = self.scanner.max(), "a line is too long");
        self.buffer = BytesMut::new();
        let text = format!("A line may have {} bytes", self.scanner.max());
        self.send(&reply::err("line_too_long", &text, None)).await?;
        self.stream.shutdown().await?;
        let drain = async {
            let mut discarded = vec![0; READ_SIZE];
            loop {
                self.stream.readable().await?;
                match self.stream.try_read(&mut discarded) {
                    Ok(0) => return Ok(()),
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
        };
        tokio::time::timeout(LINGER, drain).await.unwrap_or(Ok(()))
    }
}

/// The next line for someone who watches; never, for others. Lines that came too fast are missed.
async fn next_watched(watching: &mut Option<broadcast::Receiver<Bytes>>) -> Bytes {
    let Some(receiver) = watching else {
        return std::future::pending().await;
    };
    loop {
        match receiver.recv().await {
            Ok(line) => return line,
            Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => return std::future::pending().await,
        }
    }
}
