//! `dbos msg`: messages by hand.

use ipc::Messages;
use serde_json::json;

use crate::args::{MsgCommand, TargetArgs};
use crate::exit::Result;
use crate::service::{client, failure};
use crate::task::print;

const UNREAD: &str = "SELECT receiver_id, count(*) AS unread, min(sent_at) AS oldest FROM message \
    GROUP BY receiver_id ORDER BY receiver_id";

pub async fn run(command: MsgCommand, target: &TargetArgs) -> Result<()> {
    match command {
        MsgCommand::Install => {
            ipc::install(&client(target).await?)
                .await
                .map_err(failure)?;
            println!("messages installed: tables mailbox and message, procedures msg_*");
            Ok(())
        }
        MsgCommand::Send {
            from,
            to,
            text,
            json,
        } => send(target, from, &to, &text, json).await,
        MsgCommand::Receive {
            receiver,
            limit,
            json,
        } => receive(target, receiver, limit, json).await,
        MsgCommand::Unread { json } => print(target, UNREAD, json).await,
    }
}

async fn send(target: &TargetArgs, from: i64, to: &[i64], text: &str, as_json: bool) -> Result<()> {
    let messages = Messages::new(client(target).await?);
    let sent = messages.fan_out(to, from, text.as_bytes()).await;
    let mut first = Ok(());
    for (receiver, result) in to.iter().zip(sent) {
        match result {
            Ok(id) if as_json => {
                println!("{}", json!({"message_id": id, "receiver_id": receiver}));
            }
            Ok(id) => println!("message {id} to {receiver}"),
            // One receiver's error is printed when the command ends.
            Err(error) if first.is_ok() => {
                let mut failed = failure(error);
                failed.message = format!("to {receiver}: {}", failed.message);
                first = Err(failed);
            }
            Err(error) => eprintln!("dbos: to {receiver}: {}", failure(error).message),
        }
    }
    first
}

async fn receive(target: &TargetArgs, receiver: i64, limit: i32, as_json: bool) -> Result<()> {
    let messages = Messages::new(client(target).await?);
    for message in messages.receive(receiver, limit).await.map_err(failure)? {
        let text = String::from_utf8_lossy(&message.data);
        if as_json {
            println!(
                "{}",
                json!({"message_id": message.message_id, "sender_id": message.sender_id, "text": text})
            );
        } else {
            println!("{} from {}: {text}", message.message_id, message.sender_id);
        }
    }
    Ok(())
}
