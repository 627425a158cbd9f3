//! The infrared gateway's protocol, against a TCP server that follows a script.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failing test panics")]

use std::time::Duration;

use actuator::{GatewayError, Infrared, InfraredCode, send_codes};
use gatehouse::Span;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

const ON: &str = "sendir,1:1,1,38000,1,1,96,24,24,24";
const WARMER: &str = "sendir,1:2,2,38000,2,1,96,24,48,24";
const ON_SENT: &str = "completeir,1:1,1\r";
const WARMER_SENT: &str = "completeir,1:2,2\r";

/// What the gateway does after it has read a code.
#[derive(Debug, Clone, Copy)]
enum Then {
    Say(&'static str),
    SayInPieces(&'static [&'static str]),
    SayNothing,
    Close,
}

use Then::{Close, Say, SayInPieces, SayNothing};

/// A gateway that follows a script, one step per code, and returns what it read.
async fn gateway(script: Vec<Then>) -> (u16, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let served = tokio::spawn(async move {
        let (mut connection, _) = listener.accept().await.unwrap();
        serve(&mut connection, script).await
    });
    (port, served)
}

async fn serve(connection: &mut TcpStream, script: Vec<Then>) -> Vec<String> {
    let mut connection = BufReader::new(connection);
    let mut read = Vec::new();
    for then in script {
        let mut line = Vec::new();
        // The client may disconnect.
        if !matches!(connection.read_until(b'\r', &mut line).await, Ok(1..)) {
            return read;
        }
        read.push(String::from_utf8(line).unwrap());
        match then {
            Say(text) => connection.write_all(text.as_bytes()).await.unwrap(),
            SayInPieces(pieces) => {
                for piece in pieces {
                    connection.write_all(piece.as_bytes()).await.unwrap();
                    connection.flush().await.unwrap();
                    sleep(Duration::from_millis(30)).await;
                }
            }
            SayNothing => {}
            Close => return read,
        }
    }
    // Until the client closes the connection.
    let mut rest = String::new();
    let _ = connection.read_to_string(&mut rest).await;
    read.extend((!rest.is_empty()).then_some(rest));
    read
}

fn infrared(port: u16, send: &[&str]) -> Infrared {
    Infrared {
        host: "127.0.0.1".to_owned(),
        port,
        send: send.iter().map(|code| (*code).to_owned()).collect(),
        connect_timeout: Span::from_secs(1),
        read_timeout: Span::from_secs(1),
    }
}

/// Sends these codes to a gateway with this script. Returns the result, and what the gateway read.
async fn play(codes: &[&str], script: Vec<Then>) -> (Result<(), GatewayError>, Vec<String>) {
    let (port, served) = gateway(script).await;
    let sent = send_codes(&infrared(port, codes)).await;
    (sent, timeout(Duration::from_secs(5), served).await.unwrap().unwrap())
}

fn class(sent: &Result<(), GatewayError>) -> &'static str {
    sent.as_ref().map_or_else(GatewayError::class, |()| "sent")
}

#[tokio::test]
async fn each_code_is_a_line_sent_after_the_reply_to_the_last() {
    let (sent, read) = play(&[ON, WARMER], vec![Say(ON_SENT), Say(WARMER_SENT)]).await;
    assert_eq!(class(&sent), "sent");
    assert_eq!(read, [format!("{ON}\r"), format!("{WARMER}\r")]);
}

#[tokio::test]
async fn reply_may_arrive_in_pieces() {
    let pieces = &["comp", "leteir,1:", "1,1", "\r"];
    let (sent, _) = play(&[ON, WARMER], vec![SayInPieces(pieces), SayInPieces(&["completeir,1:2", ",2\r"])]).await;
    assert_eq!(class(&sent), "sent");
}

#[tokio::test]
async fn reply_may_end_with_a_line_feed() {
    let (sent, _) = play(&[ON, WARMER], vec![Say("completeir,1:1,1\r\n"), Say("completeir,1:2,2\r\n")]).await;
    assert_eq!(class(&sent), "sent");
}

#[tokio::test]
async fn error_reply_ends_the_command() {
    for reply in ["ERR_1:1,010\r", "ERR SO001\r", "unknowncommand,14\r"] {
        let (sent, read) = play(&[ON, WARMER], vec![Say(reply)]).await;
        assert!(matches!(sent, Err(GatewayError::ErrorReply(1))), "{reply}: {sent:?}");
        assert_eq!(read, [format!("{ON}\r")], "{reply}");
    }
}

#[tokio::test]
async fn error_names_the_code_and_does_not_repeat_the_reply() {
    let (sent, _) = play(&[ON, WARMER], vec![Say(ON_SENT), Say("ERR_1:2,023 secret\r")]).await;
    assert_eq!(sent.unwrap_err().to_string(), "the gateway rejected code 2");
}

#[tokio::test]
async fn reply_to_another_code_is_an_error() {
    for reply in ["completeir,1:2,1\r", "completeir,1:1,2\r", "completeir,1:1,11\r", "completeir\r", "hello\r", "\r"] {
        let (sent, _) = play(&[ON], vec![Say(reply)]).await;
        assert_eq!(class(&sent), "unknown-reply", "{reply}");
    }
}

#[tokio::test]
async fn endless_reply_is_an_error() {
    let endless = Box::leak("x".repeat(5000).into_boxed_str());
    let (sent, _) = play(&[ON], vec![Say(endless)]).await;
    assert_eq!(class(&sent), "unknown-reply");
}

#[tokio::test]
async fn missing_reply_is_a_read_timeout() {
    let (sent, _) = play(&[ON], vec![SayNothing]).await;
    assert!(matches!(sent, Err(GatewayError::ReadTimeout(1, _))), "{sent:?}");
}

#[tokio::test]
async fn incomplete_reply_is_a_read_timeout() {
    let (sent, _) = play(&[ON], vec![Say("completeir,1:1,1")]).await;
    assert_eq!(class(&sent), "read-timeout");
}

#[tokio::test]
async fn closed_connection_is_an_error() {
    let (sent, _) = play(&[ON], vec![Close]).await;
    assert_eq!(class(&sent), "closed");
    let (sent, _) = play(&[ON, WARMER], vec![Say(ON_SENT), Close]).await;
    assert!(matches!(sent, Err(GatewayError::Closed(2) | GatewayError::Broken(2, _))), "{sent:?}");
}

#[tokio::test]
async fn refused_connection_is_an_error() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    assert_eq!(class(&send_codes(&infrared(port, &[ON])).await), "not-connected");
}

#[tokio::test]
async fn unknown_host_is_an_error() {
    let unknown = Infrared { host: "gateway.invalid".to_owned(), ..infrared(4998, &[ON]) };
    // A resolver that does not respond is fine, too.
    assert!(matches!(class(&send_codes(&unknown).await), "not-connected" | "connect-timeout"));
}

#[tokio::test]
async fn connection_that_is_not_accepted_is_a_connect_timeout() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    // Nothing accepts connections, and the backlog is short.
    let _listener = socket.listen(0).unwrap();
    let mut waiting = Vec::new();
    while let Ok(connection) = timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
        waiting.push(connection.unwrap());
        assert!(waiting.len() < 20, "the backlog is never full");
    }
    assert_eq!(class(&send_codes(&infrared(address.port(), &[ON])).await), "connect-timeout");
}

#[tokio::test]
async fn code_is_sent_again_while_the_gateway_is_busy() {
    let (sent, read) = play(&[ON], vec![Say("busyIR,1:1,1\r"), Say("busyIR,1:1,1\r"), Say(ON_SENT)]).await;
    assert_eq!(class(&sent), "sent");
    assert_eq!(read, [format!("{ON}\r"), format!("{ON}\r"), format!("{ON}\r")]);
}

#[tokio::test]
async fn gateway_that_stays_busy_is_a_read_timeout() {
    let (sent, read) = play(&[ON], vec![Say("busyIR,1:1,1\r"); 20]).await;
    assert_eq!(class(&sent), "read-timeout");
    assert!(read.len() < 10, "the code was sent {} times", read.len());
}

#[tokio::test]
async fn sensor_change_is_not_a_reply() {
    let (sent, _) = play(&[ON], vec![Say("statechange,1:2,0\rstatechange,1:2,1\rcompleteir,1:1,1\r")]).await;
    assert_eq!(class(&sent), "sent");
}

#[test]
fn only_complete_codes_parse() {
    let long = format!("sendir,1:1,1,38000,1,1{}", ",96".repeat(1000));
    for (text, is_code) in [
        (ON, true),
        ("sendir,1:1,65535,38000,1,1,96,24", true),
        // The iTach's compressed form.
        ("sendir,1:1,2445,40000,1,1,4,5,6,5CCCCB,8,2", true),
        ("sendir,1:1,65536,38000,1,1,96,24", false),
        ("sendir,1:1,-1,38000,1,1,96,24", false),
        ("sendir,1:1,,38000,1,1,96,24", false),
        ("sendir,1,1,38000,1,1,96,24", false),
        ("sendir,1:1,1", false),
        ("sendir,1:1,1,", false),
        ("sendir,1:1,1,38000,,1", false),
        ("setstate,1:1,1", false),
        ("sendir,1:1,1,38000,1,1,96,24\r", false),
        ("sendir,1:1,1,38000,1,1,96,24\rsendir,1:1,2,38000,1,1,96,24", false),
        ("sendir,1:1,1,38000,1,1,96, 24", false),
        ("sendir,1:1,1,38000,1,1,96,24é", false),
        ("", false),
        (&long, false),
    ] {
        assert_eq!(InfraredCode::parse(text).is_some(), is_code, "{text:?}");
    }
}
