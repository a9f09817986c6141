//! Plain TCP with TCP_NODELAY: n messages are written one by one, the responder reads all of them and writes n.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::Background;

/// Answers on every connection as its first eight bytes say: message size and messages per round.
pub(crate) fn responder() -> anyhow::Result<(SocketAddr, Background)> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let background = Background::start("tcp-responder", move || async move {
        let Ok(listener) = TcpListener::from_std(listener) else {
            return;
        };
        while let Ok((stream, _)) = listener.accept().await {
            tokio::task::spawn_local(async move {
                // The other side closes the connection when the run is over.
                let _ = answer(stream).await;
            });
        }
    })?;
    Ok((address, background))
}

async fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let size = stream.read_u32().await? as usize;
    let outstanding = stream.read_u32().await?;
    let mut message = vec![0; size];
    loop {
        for _ in 0..outstanding {
            stream.read_exact(&mut message).await?;
        }
        for _ in 0..outstanding {
            stream.write_all(&message).await?;
        }
    }
}

/// A connection to a responder.
pub(crate) struct Link {
    stream: TcpStream,
    message: Vec<u8>,
    outstanding: u32,
}

impl Link {
    pub async fn connect(
        address: SocketAddr,
        size: usize,
        outstanding: u32,
    ) -> anyhow::Result<Self> {
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        stream.write_u32(u32::try_from(size)?).await?;
        stream.write_u32(outstanding).await?;
        Ok(Self {
            stream,
            message: vec![7; size],
            outstanding,
        })
    }

    /// One round: all messages out, all answers in.
    pub async fn round(&mut self) -> anyhow::Result<()> {
        for _ in 0..self.outstanding {
            self.stream.write_all(&self.message).await?;
        }
        for _ in 0..self.outstanding {
            self.stream.read_exact(&mut self.message).await?;
        }
        Ok(())
    }
}
