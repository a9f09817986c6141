//! `dbos msg`: messages by hand.

use ipc::{Message, Messages};
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
            wait,
            json,
        } => {
            let messages = Messages::new(client(target).await?);
            let received = messages
                .receive(receiver, limit, wait.unwrap_or_default())
                .await;
            show(received.map_err(failure)?, json);
            Ok(())
        }
        MsgCommand::Unread { json } => print(target, UNREAD, json).await,
    }
}

/// To all or to none.
async fn send(target: &TargetArgs, from: i64, to: &[i64], text: &str, as_json: bool) -> Result<()> {
    let messages = Messages::new(client(target).await?);
    let sent = match to {
        [receiver] => messages
            .send(*receiver, from, text.as_bytes())
            .await
            .map(|id| vec![(*receiver, id)]),
        _ => messages.broadcast(to, from, text.as_bytes()).await,
    };
    for (receiver, id) in sent.map_err(failure)? {
        match as_json {
            true => println!("{}", json!({"message_id": id, "receiver_id": receiver})),
            false => println!("message {id} to {receiver}"),
        }
    }
    Ok(())
}

fn show(received: Vec<Message>, as_json: bool) {
    for message in received {
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
}
