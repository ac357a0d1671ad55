//! The members as the cluster knows them: the raft configuration, with the attributes that each
//! member publishes through the log.

use engine::auth::{Identity, Policy, authorize_command};
use engine::command::{Command, MemberAttributes};
use reactor::Class;

use super::Node;
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
    pub fn members(&self) -> Vec<Member> {
        let sequencer = self.0.sequencer.borrow();
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

    /// Whether the cluster version has been agreed on.
    pub fn cluster_version_is_set(&self) -> bool {
        self.0
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
            let sequencer = self.0.sequencer.borrow();
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
        let node = self.clone();
        drop(self.0.world.spawn(Class::Request, async move {
            for command in commands {
                if let Err(error) = node.write_as_member(command).await {
                    let error = format!("{error:?}");
                    node.0
                        .logger
                        .warn("failed to publish", &[("error", error.into())]);
                    return;
                }
            }
            let id = format!("{:x}", node.0.identity.member_id);
            node.0.logger.info(
                "published local member to cluster through raft",
                &[("local-member-id", id.into())],
            );
            node.0.logger.info(
                "enabled capabilities for version",
                &[("cluster-version", "3.7".into())],
            );
        }));
    }

    /// A command of the member itself.
    pub(super) async fn write_as_member(
        &self,
        command: Command,
    ) -> Result<super::Answer, super::WriteError> {
        let command = match authorize_command(command, &Identity::Member, &Policy::Disabled) {
            Ok(command) => command,
            Err(error) => unreachable!("a member may do everything: {error}"),
        };
        self.write(&command).await
    }
}
