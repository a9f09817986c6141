//! Who connects to the port for nodes and is none of them.

use bytes::Bytes;
use kernel_db::node::Durability;
use kernel_db::wire::peer::{
    Answer, FrameReader, Hello, PROTOCOL, REFUSAL_ID, answer, encode_frame, frame, from_failure,
};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::cluster::{Cluster, query};

/// SQLSTATE and text of the refusal of `hello`.
async fn refusal(cluster: &Cluster, hello: Hello) -> (String, String) {
    let mut stream = TcpStream::connect(cluster.nodes[0].peer).await.unwrap();
    let (read, mut write) = stream.split();
    let body = frame::Body::Hello(hello);
    write.write_all(&encode_frame(body)).await.unwrap();
    let mut frames = FrameReader::new(read);
    let answer = frames.next().await.unwrap();
    let Some(frame::Body::Answer(Answer { id, body, .. })) = answer else {
        panic!("{answer:?}");
    };
    let Some(answer::Body::Failure(failure)) = body else {
        panic!("{body:?}");
    };
    assert_eq!(id, REFUSAL_ID);
    assert!(frames.next().await.unwrap().is_none(), "it hangs up");
    let error = from_failure(failure);
    (error.sqlstate().to_string(), error.to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn another_version_another_cluster_and_noise_are_refused() {
    let cluster = Cluster::start(1, 1, 1, Durability::Memory);
    let client = cluster.connect(1).await;
    cluster.ready(&client).await;
    let hello = |protocol| Hello {
        protocol,
        cluster: Bytes::from_static(&[7; 16]),
        from: 2,
        to: 1,
    };
    for other in [0, PROTOCOL - 1, PROTOCOL + 1] {
        let (state, text) = refusal(&cluster, hello(other)).await;
        assert_eq!(state, "08P01");
        assert!(
            text.contains(&format!("version {other} "))
                && text.contains(&format!("version {PROTOCOL}")),
            "{text}"
        );
    }
    let (state, text) = refusal(&cluster, hello(PROTOCOL)).await;
    assert_eq!(state, "08004", "{text}");

    let noise = [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        vec![0xff; 4096],
        Vec::new(),
        encode_frame(frame::Body::Hello(hello(PROTOCOL)))[..5].to_vec(),
    ];
    for bytes in noise {
        let mut stream = TcpStream::connect(cluster.nodes[0].peer).await.unwrap();
        let _ = stream.write_all(&bytes).await;
    }
    query(&client, "CREATE TABLE t (k int4 PRIMARY KEY)").await;
    query(&client, "INSERT INTO t VALUES (1)").await;
}
