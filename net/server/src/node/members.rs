//! The members as the cluster knows them: the raft configuration, with the attributes that each
//! member publishes through the log.

use engine::auth::{Identity, Policy, authorize_command};
use engine::command::{Command, MemberAttributes};
use reactor::Class;
use serde_json::Value;

use super::{Answer, Home, Node, WriteError};
use crate::config::duration::text_of;
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
                match home.write_as_member(command).await {
                    Ok(_) => {}
                    // Whoever stops a member that has just started is not warned of it.
                    Err(WriteError::Stopped) => return,
                    Err(error) => {
                        let fields = [("error", format!("{error:?}").into())];
                        home.0.logger.warn("failed to publish", &fields);
                        return;
                    }
                }
            }
            home.log_publication(!version);
        }));
    }

    /// The lines that etcd writes then, which harnesses wait for.
    fn log_publication(&self, version_is_new: bool) {
        let hex = |id: u64| Value::from(format!("{id:x}"));
        let options = &self.0.options;
        let (member, cluster) = (self.0.identity.member_id, self.0.identity.cluster_id);
        let urls = options.client_urls.join(" ");
        let attributes = format!("{{Name:{} ClientURLs:[{urls}]}}", options.name);
        let version = [(
            "cluster-version",
            CLUSTER_VERSION.trim_end_matches(".0").into(),
        )];
        let logger = &self.0.logger;
        logger.info(
            "published local member to cluster through raft",
            &[
                ("local-member-id", hex(member)),
                ("local-member-attributes", attributes.into()),
                ("cluster-id", hex(cluster)),
                ("publish-timeout", text_of(options.request_timeout).into()),
            ],
        );
        let message = match version_is_new {
            true => "set initial cluster version",
            false => "set cluster version from store",
        };
        logger.info(message, &version);
        logger.info("enabled capabilities for version", &version);
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
