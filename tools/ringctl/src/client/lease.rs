//! Keeping a lease alive.

use std::rc::Rc;
use std::time::Duration;

use grpc::Method;
use grpc::proto::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::channel::Call;
use super::status::{Code, Status};
use super::{Client, Deadline, Failure, Repeat};

/// Pause before a broken stream is opened again.
const PAUSE: Duration = Duration::from_millis(500);
/// How long the first answer may take before a lease counts as lost.
const FIRST_ANSWER: Duration = Duration::from_secs(5);

/// Grants a lease.
pub(crate) async fn grant(
    client: &Client,
    ttl: i64,
    deadline: Deadline,
) -> Result<LeaseGrantResponse, Failure> {
    let request = LeaseGrantRequest { ttl, id: 0 };
    client
        .unary(Method::LeaseGrant, &request, Repeat::Safe, deadline)
        .await
}

/// Renews a lease once.
///
/// # Errors
/// `requested lease not found` if it is gone.
pub(crate) async fn renew_once(
    client: &Client,
    id: i64,
) -> Result<LeaseKeepAliveResponse, Failure> {
    loop {
        let mut call = client.start(Method::LeaseKeepAlive, None).await?;
        match ask(&mut call, client, id).await {
            Ok(answer) if answer.ttl > 0 => return Ok(answer),
            Ok(_) => {
                return Err(Status::new(Code(5), "etcdserver: requested lease not found").into());
            }
            Err(status) if status.code != Code::UNAVAILABLE => return Err(status.into()),
            Err(_) => {
                client.disconnect();
                sleep(PAUSE).await;
            }
        }
    }
}

async fn ask(call: &mut Call, client: &Client, id: i64) -> Result<LeaseKeepAliveResponse, Status> {
    call.send(&LeaseKeepAliveRequest { id }, client.send_bytes_max())?;
    match call.next().await? {
        Some(answer) => Ok(answer),
        None => Err(Status::new(
            Code::UNAVAILABLE,
            "the server ended the stream",
        )),
    }
}

/// A lease that is renewed each third of its time, on one stream as long as that holds.
#[derive(Debug)]
pub(crate) struct KeepAlive {
    client: Rc<Client>,
    id: i64,
    call: Option<Call>,
    next: Instant,
    lost: Instant,
}

impl KeepAlive {
    /// Renews for the first time with the first [`KeepAlive::renewed`].
    pub(crate) fn new(client: Rc<Client>, id: i64) -> Self {
        let now = Instant::now();
        Self {
            client,
            id,
            call: None,
            next: now,
            lost: now + FIRST_ANSWER,
        }
    }

    /// Waits for the next renewal; `None` when the lease is gone, or no server renewed it in time.
    ///
    /// # Errors
    /// The server refuses to renew leases at all.
    pub(crate) async fn renewed(&mut self) -> Result<Option<LeaseKeepAliveResponse>, Failure> {
        sleep_until(self.next).await;
        loop {
            match timeout_at(self.lost, self.attempt()).await {
                Err(_) => return Ok(None),
                Ok(Ok(answer)) if answer.ttl <= 0 => return Ok(None),
                Ok(Ok(answer)) => {
                    let (now, ttl) = (
                        Instant::now(),
                        Duration::from_secs(answer.ttl.unsigned_abs()),
                    );
                    self.next = now + ttl / 3;
                    self.lost = now + ttl;
                    return Ok(Some(answer));
                }
                Ok(Err(Failure::Status(status))) if status.code == Code::UNAVAILABLE => {
                    self.call = None;
                    self.client.disconnect();
                    sleep(PAUSE).await;
                }
                Ok(Err(failure)) => return Err(failure),
            }
        }
    }

    async fn attempt(&mut self) -> Result<LeaseKeepAliveResponse, Failure> {
        let call = match &mut self.call {
            Some(call) => call,
            none => none.insert(self.client.start(Method::LeaseKeepAlive, None).await?),
        };
        Ok(ask(call, &self.client, self.id).await?)
    }

    /// Renews until the lease is gone.
    pub(crate) async fn hold(mut self) {
        while let Ok(Some(_)) = self.renewed().await {}
    }
}
