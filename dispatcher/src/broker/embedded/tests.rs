#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::timeout;

use super::{Embedded, doorbell};
use crate::broker::Broker;
use crate::broker::conformance::{Installation, LIMIT, event, queue, topology};

/// A file of its own, removed at the end.
struct Place {
    folder: PathBuf,
}

impl Place {
    fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("weft-broker-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir(&folder).unwrap();
        Self { folder }
    }

    fn file(&self) -> PathBuf {
        self.folder.join("weft.db")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

#[async_trait]
impl Installation for Place {
    async fn open(&self) -> Arc<dyn Broker> {
        Arc::new(Embedded::open(&self.file()).await.unwrap())
    }
}

crate::broker_conformance!(Place::new());

#[tokio::test]
async fn another_process_rings_the_bell() {
    let place = Place::new();
    let consuming = place.open().await;
    consuming.declare(&topology(&["orders.*"])).await.unwrap();
    let mut subscription = consuming.subscribe(&queue(), 1).await.unwrap();
    // What follows is all that another process does.
    let publishing = place.open().await;
    for round in 0..3 {
        let before = tokio::time::Instant::now();
        assert_eq!(publishing.publish(&[event("orders.placed", "x")]).await, vec![Ok(())]);
        let got = timeout(LIMIT, subscription.deliveries.recv()).await.unwrap().unwrap();
        assert!(round == 0 || before.elapsed() < Duration::from_millis(900), "seen by the poll, not by the bell");
        subscription.acks.ack(vec![got.id]);
    }
    publishing.close().await;
    consuming.close().await;
    assert!(!doorbell::path_of(&place.file()).exists());
}

#[tokio::test]
async fn what_nobody_rang_for_is_seen_by_the_look_that_all_queues_share() {
    let place = Place::new();
    let consuming = place.open().await;
    consuming.declare(&topology(&["orders.*"])).await.unwrap();
    let mut subscription = consuming.subscribe(&queue(), 1).await.unwrap();
    std::fs::remove_file(doorbell::path_of(&place.file())).unwrap();
    let publishing = place.open().await;
    for _ in 0..2 {
        assert_eq!(publishing.publish(&[event("orders.placed", "x")]).await, vec![Ok(())]);
        let got = timeout(LIMIT, subscription.deliveries.recv()).await.unwrap().unwrap();
        subscription.acks.ack(vec![got.id]);
    }
    publishing.close().await;
    consuming.close().await;
}

#[tokio::test]
async fn the_bell_of_a_dead_process_is_replaced_and_that_of_a_living_one_is_not() {
    let place = Place::new();
    let path = doorbell::path_of(&place.file());
    // A socket file that outlived its process.
    drop(std::os::unix::net::UnixDatagram::bind(&path).unwrap());
    assert!(path.exists());
    let first = place.open().await;
    let subscription = first.subscribe(&queue(), 1).await.unwrap();
    let second = place.open().await;
    let error = second.subscribe(&queue(), 1).await.err().unwrap();
    assert!(matches!(error, crate::broker::BrokerError::Unavailable { .. }), "{error:?}");
    drop(subscription);
    first.close().await;
    assert!(second.subscribe(&queue(), 1).await.is_ok());
    second.close().await;
}
