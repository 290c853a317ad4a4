//! Starts processes that end with this one, however it ends: a panic, Ctrl-C, `kill -9`.
//!
//! The kernel does it (`PR_SET_PDEATHSIG`), and for it the parent is the *thread* that started the process. Tests' threads
//! end with their test, so all nodes are started by one thread that lives as long as the process.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::LazyLock;
use std::sync::mpsc;

use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};

type Order = (Command, mpsc::Sender<std::io::Result<Child>>);

/// Starts a command that will not outlive this process.
pub fn spawn(mut command: Command) -> std::io::Result<Child> {
    static THREAD: LazyLock<mpsc::Sender<Order>> = LazyLock::new(|| {
        let (send, orders) = mpsc::channel::<Order>();
        std::thread::Builder::new()
            .name("spawner".into())
            .spawn(move || {
                for (mut command, answer) in orders {
                    // Whoever asked waits for it.
                    let _gone = answer.send(command.spawn());
                }
            })
            .expect("a thread can be started");
        send
    });
    let parent = getpid();
    #[expect(
        unsafe_code,
        reason = "two system calls between fork and exec, neither allocates or locks"
    )]
    unsafe {
        command.pre_exec(move || {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            // It may have died before the line above.
            if getppid() != Some(parent) {
                return Err(std::io::ErrorKind::BrokenPipe.into());
            }
            Ok(())
        });
    }
    let (answer, spawned) = mpsc::channel();
    THREAD
        .send((command, answer))
        .expect("the thread lives as long as the process");
    spawned
        .recv()
        .expect("the thread lives as long as the process")
}
