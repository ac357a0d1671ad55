//! The members as the cluster knows them: the raft configuration, with the attributes that each
//! member publishes through the log.

use engine::auth::{Identity, Policy, authorize_command};
use engine::command::{Command, MemberAttributes};
use reactor::Class;

use super::{Answer, Home, Node, WriteError};
use crate::services::CLUSTER_VERSION;

/// One member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub id: u64,
    /// Its name; empty until it has published its attributes.
    pub name: String,
    /// URLs announced to peers.
    pub peer_urls: Vec<String>,
    /// URLs announced to clients.
    pub client_urls: Vec<String>,
}

impl Node {
    /// All members.
    ///
    /// # Errors
    /// `Stopped` if home is gone.
    pub async fn members(&self) -> Result<Vec<Member>, WriteError> {
        self.at_home(Home::members).await
    }

    /// Whether the cluster version has been agreed on.
    ///
    /// # Errors
    /// `Stopped` if home is gone.
    pub async fn cluster_version_is_set(&self) -> Result<bool, WriteError> {
        self.at_home(Home::cluster_version_is_set).await
    }
}

impl Home {
    fn members(&self) -> Vec<Member> {
        let sequencer = self.parts.sequencer.borrow();
        let id = self.0.identity.member_id;
        let attributes = sequencer
            .coordinator()
            .members()
            .find(|member| member.member == id);
        vec![Member {
            id,
            name: attributes.map(|a| a.name.clone()).unwrap_or_default(),
            peer_urls: self.0.options.peer_urls.clone(),
            client_urls: attributes
                .map(|a| a.client_urls.clone())
                .unwrap_or_default(),
        }]
    }

    fn cluster_version_is_set(&self) -> bool {
        self.parts
            .sequencer
            .borrow()
            .coordinator()
            .cluster_version()
            .is_some()
    }

    /// Publishes this member's attributes and the cluster version, where they are not what the log
    /// says already. Returns at once.
    pub fn publish_attributes(&self) {
        let attributes = MemberAttributes {
            member: self.0.identity.member_id,
            name: self.0.options.name.clone(),
            client_urls: self.0.options.client_urls.clone(),
        };
        let (published, version) = {
            let sequencer = self.parts.sequencer.borrow();
            let coordinator = sequencer.coordinator();
            let published = coordinator.members().any(|member| *member == attributes);
            (
                published,
                coordinator.cluster_version() == Some(CLUSTER_VERSION),
            )
        };
        let mut commands = Vec::new();
        if !published {
            commands.push(Command::MemberAttributes(attributes));
        }
        if !version {
            commands.push(Command::ClusterVersion(CLUSTER_VERSION.to_owned()));
        }
        let home = self.clone();
        drop(self.0.world.spawn(Class::Request, async move {
            for command in commands {
                if let Err(error) = home.write_as_member(command).await {
                    let error = format!("{error:?}");
                    home.0
                        .logger
                        .warn("failed to publish", &[("error", error.into())]);
                    return;
                }
            }
            let id = format!("{:x}", home.0.identity.member_id);
            home.0.logger.info(
                "published local member to cluster through raft",
                &[("local-member-id", id.into())],
            );
            home.0.logger.info(
                "enabled capabilities for version",
                &[("cluster-version", "3.7".into())],
            );
        }));
    }

    /// A command of the member itself.
    pub(super) async fn write_as_member(&self, command: Command) -> Result<Answer, WriteError> {
        let command = match authorize_command(command, &Identity::Member, &Policy::Disabled) {
            Ok(command) => command,
            Err(error) => unreachable!("a member may do everything: {error}"),
        };
        let outcome = self.write_anyhow(&command).await?;
        self.answer_of(outcome)
    }
}
