//! Claims about places for answers.

use bytes::Bytes;
use tokio::time::timeout;
use weft_schemas::Message;
use weft_schemas::message::HeaderValue;

use super::super::{Broker, FromReplies, Names, PublishError, Replies};
use super::{Installation, LIMIT, start};

fn answer(to: &str, body: &str) -> Message {
    let mut message =
        Message { routing_key: to.to_owned(), body: Bytes::copy_from_slice(body.as_bytes()), ..Message::default() };
    message.properties.correlation_id = Some(body.to_owned());
    message.headers.insert("weft-status".to_owned(), HeaderValue::from("succeeded"));
    message
}

async fn replies(broker: &dyn Broker, name: &str) -> Replies {
    broker.replies(name).await.unwrap_or_else(|error| panic!("{error:?}"))
}

async fn next_answer(replies: &mut Replies) -> Option<Message> {
    match timeout(LIMIT, replies.arriving.recv()).await {
        Ok(Some(FromReplies::Answer(message))) => Some(*message),
        Ok(Some(FromReplies::Gap)) => None,
        Ok(None) => panic!("the answers ended"),
        Err(_) => panic!("no answer within {LIMIT:?}"),
    }
}

/// What is published to a place for answers comes in there alone; to one that is gone it is told as not taken.
pub async fn an_answer_reaches_the_place_it_is_for(place: &dyn Installation) {
    let broker = start(place).await;
    let names = Names::new("weft");
    let (mut one, mut two) =
        (replies(&*broker, &names.replies("one")).await, replies(&*broker, &names.replies("two")).await);
    let sent: Vec<Message> = (0..200).map(|n| answer(&one.address, &format!("{n:03}"))).collect();
    let taking = async {
        for message in &sent {
            let got = next_answer(&mut one).await.unwrap_or_else(|| panic!("a gap although nothing was cut"));
            assert_eq!(
                (&got.body, &got.properties.correlation_id),
                (&message.body, &message.properties.correlation_id)
            );
            assert_eq!(got.header("weft-status"), Some("succeeded"));
        }
    };
    let (outcomes, ()) = tokio::join!(broker.publish(&sent), taking);
    assert_eq!(outcomes, vec![Ok(()); sent.len()]);
    assert_eq!(broker.publish(&[answer(&two.address, "x")]).await, vec![Ok(())]);
    assert_eq!(next_answer(&mut two).await.map(|got| got.body), Some(Bytes::from_static(b"x")));
    let nobody = broker.publish(&[answer(&names.replies("nobody"), "x")]).await;
    assert!(matches!(nobody.as_slice(), [Err(PublishError::Unroutable { .. })]), "{nobody:?}");
    broker.close().await;
}

/// After a cut the place for answers is there again under its address, and says that some may be lost.
pub async fn a_place_for_answers_is_there_again_after_a_cut_and_tells_of_the_gap(place: &dyn Installation) {
    let broker = start(place).await;
    let mut replies = replies(&*broker, &Names::new("weft").replies("one")).await;
    place.cut().await;
    assert!(next_answer(&mut replies).await.is_none(), "an answer before the gap was told");
    assert_eq!(broker.publish(&[answer(&replies.address, "x")]).await, vec![Ok(())]);
    assert_eq!(next_answer(&mut replies).await.map(|got| got.body), Some(Bytes::from_static(b"x")));
    broker.close().await;
}
