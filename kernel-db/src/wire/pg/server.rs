//! Accepts clients and starts their connections.
//!
//! Runs inside a `LocalSet` on the core's thread. Past the bound of connections new ones get 53300 after their startup
//! message (cancel requests still work); far past it they are closed unheard.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use pgwire::messages::response::TransactionStatus;
use pgwire::messages::startup::{Authentication, BackendKeyData, SecretKey};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::backend::{Backend, ConnInfo};
use super::connection;
use super::queue::Queue;
use super::reader::Reader;
use super::reply;
use super::settings::{Changed, Settings};
use super::startup::{self, Hello, Opened};
use crate::error::{Error, Result};

/// Connections that may be in their startup, or waiting to be told 53300, beyond the bound.
const STARTUP_EXTRA: usize = 64;

/// Bounds of the client side.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections of this node; past it 53300.
    pub connections: usize,
    /// Bytes of one message; past it 54000 and the connection ends.
    pub message_bytes: usize,
    /// Unanswered Syncs of one connection; past it nothing more is read from it.
    pub pending: usize,
    /// Time to send the startup message.
    pub startup: Duration,
    /// Time that connections get to receive what is running when the node stops.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1_000,
            message_bytes: 64 << 20,
            pending: 1_024,
            startup: Duration::from_secs(10),
            drain: Duration::from_secs(2),
        }
    }
}

struct Shared {
    backend: Rc<dyn Backend>,
    limits: Limits,
    stop: CancellationToken,
    next_pid: Cell<i32>,
    /// Cancel keys by pid.
    secrets: RefCell<HashMap<i32, Bytes>>,
}

/// Serves clients until `stop` is cancelled, then waits for their connections to end, at most `limits.drain`.
pub async fn serve(
    listener: TcpListener,
    backend: Rc<dyn Backend>,
    limits: Limits,
    stop: CancellationToken,
) {
    let shared = Rc::new(Shared {
        backend,
        limits,
        stop: stop.clone(),
        next_pid: Cell::new(0),
        secrets: RefCell::default(),
    });
    let mut clients = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        while clients.try_join_next().is_some() {}
        match accepted {
            Ok(_) if clients.len() >= shared.limits.connections + STARTUP_EXTRA => {}
            Ok((socket, peer)) => {
                clients.spawn_local(client(shared.clone(), socket, peer.to_string()));
            }
            Err(error) => {
                // Out of file descriptors, mostly: let some be closed.
                tracing::warn!(%error, "cannot accept a client connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    let drained = tokio::time::timeout(shared.limits.drain, async {
        while clients.join_next().await.is_some() {}
    });
    if drained.await.is_err() {
        tracing::warn!(
            connections = clients.len(),
            "closing client connections that did not drain"
        );
    }
}

async fn client(shared: Rc<Shared>, mut socket: TcpStream, peer: String) {
    // Replies are written whole, so there is nothing to wait for.
    if let Err(error) = socket.set_nodelay(true) {
        tracing::debug!(%error, peer, "cannot set TCP_NODELAY");
    }
    let mut input = BytesMut::with_capacity(1 << 10);
    let opening = tokio::time::timeout(
        shared.limits.startup,
        startup::open(&mut socket, &mut input),
    );
    let opened = tokio::select! {
        opened = opening => opened,
        () = shared.stop.cancelled() => return,
    };
    let ended = match opened {
        Ok(Ok(Opened::Hello(hello))) => start(&shared, &mut socket, *hello, peer).await,
        Ok(Ok(Opened::Cancel { pid, secret })) => {
            let known = shared
                .secrets
                .borrow()
                .get(&pid)
                .is_some_and(|key| key[..] == secret[..]);
            if known {
                shared.backend.cancel(pid);
            }
            return;
        }
        Ok(Ok(Opened::Gone)) | Err(_) => return,
        Ok(Err(error)) => Err(error),
    };
    match ended {
        Ok(Some(started)) => started.run(&shared, socket, input).await,
        Ok(None) => {}
        Err(error) => {
            let mut out = BytesMut::new();
            if reply::error(&mut out, &error, true).is_ok() {
                // The client may be gone already; there is nobody else to tell.
                let _ = socket.write_all(&out).await;
                let _ = socket.shutdown().await;
            }
        }
    }
}

/// Greets the client; `None` if it went away meanwhile.
async fn start(
    shared: &Shared,
    socket: &mut TcpStream,
    hello: Hello,
    peer: String,
) -> Result<Option<Started>> {
    if shared.secrets.borrow().len() >= shared.limits.connections {
        let message = format!(
            "sorry, too many clients already: the bound is {} per node",
            shared.limits.connections
        );
        return Err(Error::retry("53300", message)
            .hint("connect to another node, or raise connections_max"));
    }
    let pid = shared.free_pid();
    let key = if hello.long_keys {
        SecretKey::Bytes(Bytes::copy_from_slice(&rand::random::<[u8; 32]>()))
    } else {
        SecretKey::I32(rand::random())
    };
    let secret = key.to_bytes();
    let greeting = greeting(&hello, BackendKeyData::new(pid, key))?;
    shared.secrets.borrow_mut().insert(pid, secret);
    if socket.write_all(&greeting).await.is_err() {
        shared.secrets.borrow_mut().remove(&pid);
        return Ok(None);
    }
    Ok(Some(Started::new(pid, peer, hello)))
}

fn greeting(hello: &Hello, key: BackendKeyData) -> Result<BytesMut> {
    let mut out = BytesMut::new();
    if let Some(negotiate) = &hello.negotiate {
        reply::put(&mut out, negotiate)?;
    }
    reply::put(&mut out, &Authentication::Ok)?;
    for (name, value) in hello.settings.all(true) {
        reply::parameter_status(&mut out, name, &value)?;
    }
    reply::parameter_status(&mut out, "session_authorization", &hello.user)?;
    reply::put(&mut out, &key)?;
    for warning in &hello.warnings {
        reply::notice(&mut out, warning)?;
    }
    reply::ready(&mut out, TransactionStatus::Idle)?;
    Ok(out)
}

/// A connection that has been greeted.
struct Started {
    info: Rc<ConnInfo>,
    settings: Settings,
    next_request: u64,
}

impl Started {
    fn new(pid: i32, peer: String, hello: Hello) -> Self {
        let info = Rc::new(ConnInfo {
            pid,
            peer,
            user: hello.user,
            database: hello.database,
            session: hello.session,
            application_name: RefCell::default(),
            statement_timeout_ms: Cell::new(0),
            lock_timeout_ms: Cell::new(0),
            submitted: Cell::new(0),
            hung_up: Arc::default(),
            running: RefCell::new(VecDeque::new()),
        });
        Self {
            info,
            settings: hello.settings,
            next_request: hello.next_request,
        }
    }

    async fn run(self, shared: &Shared, socket: TcpStream, input: BytesMut) {
        let info = self.info;
        let queue = Rc::new(Queue::new(shared.limits.pending));
        let names: Vec<_> = self.settings.all(false).map(|(name, _)| name).collect();
        let mut reader = Reader::new(
            shared.backend.clone(),
            info.clone(),
            queue.clone(),
            self.settings,
            self.next_request,
        );
        for name in names {
            reader.took_effect(&Changed {
                name,
                reported: false,
            });
        }
        let _registered = Registered::new(shared, info.clone());
        let message_bytes = shared.limits.message_bytes;
        connection::run(
            socket,
            input,
            reader,
            info,
            queue,
            message_bytes,
            shared.stop.clone(),
        )
        .await;
    }
}

/// The backend's knowledge of a connection: taken back however the connection ends, also when its task is dropped.
struct Registered<'a> {
    shared: &'a Shared,
    info: Rc<ConnInfo>,
}

impl<'a> Registered<'a> {
    fn new(shared: &'a Shared, info: Rc<ConnInfo>) -> Self {
        shared.backend.connected(&info);
        Self { shared, info }
    }
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.shared.backend.disconnected(&self.info);
        self.shared.secrets.borrow_mut().remove(&self.info.pid);
    }
}

impl Shared {
    /// The next pid that no connection has.
    fn free_pid(&self) -> i32 {
        loop {
            let pid = self.next_pid.get().checked_add(1).unwrap_or(1);
            self.next_pid.set(pid);
            if !self.secrets.borrow().contains_key(&pid) {
                return pid;
            }
        }
    }
}
