//! One client connection: reader and writer in one task.
//!
//! The reader turns messages into submitted transactions, the writer sends replies in order; both are polled whenever the
//! task wakes, so neither needs to wake the other. One read takes all bytes that have arrived, one write sends all replies
//! that are ready. The connection ends when the client goes, says Terminate, breaks the protocol, or the node stops; what
//! was submitted before is still answered if the client listens.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::task::Poll;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio_util::sync::CancellationToken;

use super::backend::ConnInfo;
use super::frame;
use super::queue::{Part, Queue, Reply};
use super::reader::{Next, Reader};
use super::reply;
use crate::error::Error;

/// Read buffer to begin with; it grows for large messages.
const READ_BYTES: usize = 16 << 10;
/// Buffers that grew past this are given back when they are empty.
const BUFFER_KEPT_BYTES: usize = 1 << 20;

/// Serves a connection whose startup is done, until its end.
pub async fn run(
    mut socket: TcpStream,
    input: BytesMut,
    reader: Reader,
    info: Rc<ConnInfo>,
    queue: Rc<Queue>,
    message_bytes_max: usize,
    stop: CancellationToken,
) {
    let (read_half, write_half) = socket.split();
    let mut reading = Some(Box::pin(read(read_half, input, reader, message_bytes_max)));
    let mut writing = pin!(write(write_half, Rc::clone(&info), queue.clone()));
    let mut stopped = pin!(stop.cancelled());
    poll_fn(|cx| {
        loop {
            if reading.is_some() && stopped.as_mut().poll(cx).is_ready() {
                let error = Error::retry("57P01", "terminating connection: the node is stopping");
                queue.push(Part {
                    replies: vec![Reply::Fatal(error)],
                    ..Part::default()
                });
                queue.ended.set(true);
                reading = None;
            }
            if reading
                .as_mut()
                .is_some_and(|future| future.as_mut().poll(cx).is_ready())
            {
                queue.ended.set(true);
                info.hung_up.store(true, Ordering::Relaxed);
                reading = None;
            }
            let answered = queue.answered.get();
            if writing.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            // The reader may wait for replies to get out of its way: it has no waker of its own for that.
            if reading.is_none() || queue.answered.get() == answered {
                return Poll::Pending;
            }
        }
    })
    .await;
    // Nobody reads what is still under way.
    info.hung_up.store(true, Ordering::Relaxed);
}

async fn read(
    mut socket: ReadHalf<'_>,
    mut input: BytesMut,
    mut reader: Reader,
    message_bytes_max: usize,
) {
    loop {
        loop {
            match frame::next(&mut input, message_bytes_max) {
                Ok(Some((message, size))) => {
                    if reader.handle(message, size).await == Next::End {
                        return;
                    }
                }
                Ok(None) => break,
                Err(error) => return reader.fatal(error),
            }
        }
        if input.is_empty() && input.capacity() > BUFFER_KEPT_BYTES {
            input = BytesMut::new();
        }
        input.reserve(READ_BYTES);
        let reading = socket.read_buf(&mut input);
        let got = match reader.idle_limit() {
            None => reading.await,
            Some(limit) => match tokio::time::timeout(limit, reading).await {
                Ok(got) => got,
                Err(_) => return reader.fatal(idle_too_long()),
            },
        };
        if !matches!(got, Ok(n) if n > 0) {
            return;
        }
    }
}

fn idle_too_long() -> Error {
    Error::new(
        "25P03",
        "terminating connection due to idle-in-transaction timeout",
    )
}

async fn write(mut socket: WriteHalf<'_>, info: Rc<ConnInfo>, queue: Rc<Queue>) {
    let mut out = BytesMut::with_capacity(READ_BYTES);
    loop {
        let ended = poll_fn(|cx| queue.poll_replies(cx, &info, &mut out)).await;
        if let Err(error) = &ended {
            tracing::error!(pid = info.pid, %error, "closing a connection: reply cannot be encoded");
            // Nothing after this could be told apart by the client, so it need not be well-formed beyond the error itself.
            if reply::error(&mut out, error, true).is_err() {
                return;
            }
        }
        if socket.write_all(&out).await.is_err() {
            return;
        }
        if !matches!(ended, Ok(false)) {
            // The last bytes were given to the kernel; an error here means the client went first.
            let _ = socket.shutdown().await;
            return;
        }
        if out.capacity() > BUFFER_KEPT_BYTES {
            out = BytesMut::with_capacity(READ_BYTES);
        } else {
            out.clear();
        }
    }
}
