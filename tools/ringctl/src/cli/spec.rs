//! What a command and a flag are.

/// Under which heading help lists a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    /// Keys, transactions, leases, watches.
    Keys,
    /// Members, endpoints, storage.
    Cluster,
    /// Locks and elections.
    Concurrency,
    /// Users and roles.
    Authentication,
    /// Everything about the tool itself.
    Utility,
}

impl Group {
    /// Every group in the order of help.
    pub(crate) const ALL: [Group; 5] = [
        Group::Keys,
        Group::Cluster,
        Group::Concurrency,
        Group::Authentication,
        Group::Utility,
    ];

    /// The heading.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Group::Keys => "Key-value commands",
            Group::Cluster => "Cluster maintenance commands",
            Group::Concurrency => "Concurrency commands",
            Group::Authentication => "Authentication commands",
            Group::Utility => "Utility commands",
        }
    }
}

/// What a flag takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nothing, or `=true` and `=false`.
    Truth,
    /// Any text.
    Text,
    /// Comma-separated texts; may be repeated.
    List,
    /// A signed number.
    Number,
    /// A number without a sign.
    Unsigned,
    /// A span of time such as `5s`.
    Duration,
}

/// A flag.
#[derive(Debug)]
pub(crate) struct Flag {
    /// Without the dashes.
    pub(crate) name: &'static str,
    /// The one-letter form.
    pub(crate) short: Option<char>,
    /// What it takes.
    pub(crate) kind: Kind,
    /// The value when it is not given.
    pub(crate) default: &'static str,
    /// The values that completions offer.
    pub(crate) values: &'static [&'static str],
    /// One line of help.
    pub(crate) help: &'static str,
}

impl Flag {
    const fn new(
        name: &'static str,
        kind: Kind,
        default: &'static str,
        help: &'static str,
    ) -> Self {
        Self {
            name,
            short: None,
            kind,
            default,
            values: &[],
            help,
        }
    }

    /// Off unless given.
    pub(crate) const fn truth(name: &'static str, help: &'static str) -> Self {
        Self::new(name, Kind::Truth, "false", help)
    }

    /// On unless switched off.
    pub(crate) const fn on(name: &'static str, help: &'static str) -> Self {
        Self::new(name, Kind::Truth, "true", help)
    }

    /// A text.
    pub(crate) const fn text(
        name: &'static str,
        default: &'static str,
        help: &'static str,
    ) -> Self {
        Self::new(name, Kind::Text, default, help)
    }

    /// A list.
    pub(crate) const fn list(
        name: &'static str,
        default: &'static str,
        help: &'static str,
    ) -> Self {
        Self::new(name, Kind::List, default, help)
    }

    /// A signed number.
    pub(crate) const fn number(
        name: &'static str,
        default: &'static str,
        help: &'static str,
    ) -> Self {
        Self::new(name, Kind::Number, default, help)
    }

    /// A number without a sign.
    pub(crate) const fn unsigned(
        name: &'static str,
        default: &'static str,
        help: &'static str,
    ) -> Self {
        Self::new(name, Kind::Unsigned, default, help)
    }

    /// A span of time.
    pub(crate) const fn duration(
        name: &'static str,
        default: &'static str,
        help: &'static str,
    ) -> Self {
        Self::new(name, Kind::Duration, default, help)
    }

    /// The same with a one-letter form.
    pub(crate) const fn short(mut self, letter: char) -> Self {
        self.short = Some(letter);
        self
    }

    /// The same with values for completion.
    pub(crate) const fn values(mut self, values: &'static [&'static str]) -> Self {
        self.values = values;
        self
    }
}

/// What a command does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is the command of its name")]
pub(crate) enum Action {
    AlarmDisarm,
    AlarmList,
    AuthDisable,
    AuthEnable,
    AuthStatus,
    CheckDatascale,
    CheckPerf,
    Compaction,
    Completion,
    Defrag,
    Del,
    DowngradeCancel,
    DowngradeEnable,
    DowngradeValidate,
    Elect,
    EndpointHashkv,
    EndpointHealth,
    EndpointStatus,
    Get,
    LeaseGrant,
    LeaseKeepAlive,
    LeaseList,
    LeaseRevoke,
    LeaseTimeToLive,
    Lock,
    MakeMirror,
    Man,
    MemberAdd,
    MemberList,
    MemberPromote,
    MemberRemove,
    MemberUpdate,
    MoveLeader,
    Options,
    Put,
    RoleAdd,
    RoleDelete,
    RoleGet,
    RoleGrantPermission,
    RoleList,
    RoleRevokePermission,
    SnapshotRestore,
    SnapshotSave,
    SnapshotStatus,
    Txn,
    UserAdd,
    UserDelete,
    UserGet,
    UserGrantRole,
    UserList,
    UserPassword,
    UserRevokeRole,
    Version,
    Watch,
}

/// A command, or a group of commands if it has no action.
#[derive(Debug)]
pub(crate) struct Command {
    /// One word.
    pub(crate) name: &'static str,
    /// The arguments as help shows them.
    pub(crate) arguments: &'static str,
    /// One line of help.
    pub(crate) about: &'static str,
    /// More lines of help.
    pub(crate) details: &'static str,
    /// Where help lists it; only at the top.
    pub(crate) group: Group,
    /// Flags of the command alone.
    pub(crate) flags: &'static [Flag],
    /// Flags of the command and of all below it.
    pub(crate) shared: &'static [Flag],
    /// Commands below it.
    pub(crate) commands: &'static [Command],
    /// What it does; a group does nothing.
    pub(crate) action: Option<Action>,
    /// Whether only `ringctl` has it.
    pub(crate) own: bool,
}

impl Command {
    const fn new(name: &'static str, group: Group, about: &'static str) -> Self {
        Self {
            name,
            arguments: "",
            about,
            details: "",
            group,
            flags: &[],
            shared: &[],
            commands: &[],
            action: None,
            own: false,
        }
    }

    /// A command.
    pub(crate) const fn action(
        name: &'static str,
        group: Group,
        action: Action,
        about: &'static str,
    ) -> Self {
        let mut command = Self::new(name, group, about);
        command.action = Some(action);
        command
    }

    /// A group of commands.
    pub(crate) const fn commands(
        name: &'static str,
        group: Group,
        about: &'static str,
        commands: &'static [Command],
    ) -> Self {
        let mut command = Self::new(name, group, about);
        command.commands = commands;
        command
    }

    /// The same with arguments.
    pub(crate) const fn arguments(mut self, arguments: &'static str) -> Self {
        self.arguments = arguments;
        self
    }

    /// The same with more help.
    pub(crate) const fn details(mut self, details: &'static str) -> Self {
        self.details = details;
        self
    }

    /// The same with flags.
    pub(crate) const fn flags(mut self, flags: &'static [Flag]) -> Self {
        self.flags = flags;
        self
    }

    /// The same with flags that commands below it have, too.
    pub(crate) const fn shared(mut self, flags: &'static [Flag]) -> Self {
        self.shared = flags;
        self
    }

    /// The same, and only `ringctl` has it.
    pub(crate) const fn own(mut self) -> Self {
        self.own = true;
        self
    }
}
