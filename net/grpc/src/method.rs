//! The methods of the client API, found by their path.

/// How messages flow in a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One request, one answer.
    Unary,
    /// One request, any number of answers.
    ServerStream,
    /// Any number both ways.
    Bidirectional,
}

macro_rules! methods {
    ($($service:literal { $($name:literal $variant:ident $shape:ident;)* })*) => {
        /// A method of the client API.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Method {
            $($(
                #[doc = concat!("`/", $service, "/", $name, "`")]
                $variant,
            )*)*
        }

        impl Method {
            /// Every method.
            pub const ALL: &[Method] = &[$($(Method::$variant),*),*];

            /// The path on the wire.
            pub const fn path(self) -> &'static str {
                match self {
                    $($(Method::$variant => concat!("/", $service, "/", $name),)*)*
                }
            }

            /// Name of its service.
            pub const fn service(self) -> &'static str {
                match self {
                    $($(Method::$variant => $service,)*)*
                }
            }

            /// Its name in its service.
            pub const fn name(self) -> &'static str {
                match self {
                    $($(Method::$variant => $name,)*)*
                }
            }

            /// How messages flow.
            pub const fn shape(self) -> Shape {
                match self {
                    $($(Method::$variant => Shape::$shape,)*)*
                }
            }

            /// The method at `path`, or why there is none.
            pub fn from_path(path: &str) -> Result<Method, UnknownMethod<'_>> {
                let Some((service, name)) = path.strip_prefix('/').unwrap_or(path).rsplit_once('/')
                else {
                    return Err(UnknownMethod::Malformed(path));
                };
                match service {
                    $(
                        $service => match name {
                            $($name => Ok(Method::$variant),)*
                            _ => Err(UnknownMethod::Method { service, name }),
                        },
                    )*
                    _ => Err(UnknownMethod::Service(service)),
                }
            }
        }
    };
}

methods! {
    "etcdserverpb.KV" {
        "Put" Put Unary;
        "Range" Range Unary;
        "Txn" Txn Unary;
        "DeleteRange" DeleteRange Unary;
        "Compact" Compact Unary;
        "RangeStream" RangeStream ServerStream;
    }
    "etcdserverpb.Watch" {
        "Watch" Watch Bidirectional;
    }
    "etcdserverpb.Lease" {
        "LeaseGrant" LeaseGrant Unary;
        "LeaseRevoke" LeaseRevoke Unary;
        "LeaseKeepAlive" LeaseKeepAlive Bidirectional;
        "LeaseTimeToLive" LeaseTimeToLive Unary;
        "LeaseLeases" LeaseLeases Unary;
    }
    "etcdserverpb.Cluster" {
        "MemberAdd" MemberAdd Unary;
        "MemberRemove" MemberRemove Unary;
        "MemberUpdate" MemberUpdate Unary;
        "MemberList" MemberList Unary;
        "MemberPromote" MemberPromote Unary;
    }
    "etcdserverpb.Maintenance" {
        "Alarm" Alarm Unary;
        "Status" Status Unary;
        "Defragment" Defragment Unary;
        "Hash" Hash Unary;
        "HashKV" HashKv Unary;
        "Snapshot" Snapshot ServerStream;
        "MoveLeader" MoveLeader Unary;
        "Downgrade" Downgrade Unary;
    }
    "etcdserverpb.Auth" {
        "AuthEnable" AuthEnable Unary;
        "AuthDisable" AuthDisable Unary;
        "AuthStatus" AuthStatus Unary;
        "Authenticate" Authenticate Unary;
        "UserAdd" UserAdd Unary;
        "UserGet" UserGet Unary;
        "UserList" UserList Unary;
        "UserDelete" UserDelete Unary;
        "UserChangePassword" UserChangePassword Unary;
        "UserGrantRole" UserGrantRole Unary;
        "UserRevokeRole" UserRevokeRole Unary;
        "RoleAdd" RoleAdd Unary;
        "RoleGet" RoleGet Unary;
        "RoleList" RoleList Unary;
        "RoleDelete" RoleDelete Unary;
        "RoleGrantPermission" RoleGrantPermission Unary;
        "RoleRevokePermission" RoleRevokePermission Unary;
    }
    "v3lockpb.Lock" {
        "Lock" Lock Unary;
        "Unlock" Unlock Unary;
    }
    "v3electionpb.Election" {
        "Campaign" Campaign Unary;
        "Proclaim" Proclaim Unary;
        "Leader" Leader Unary;
        "Observe" Observe ServerStream;
        "Resign" Resign Unary;
    }
    "grpc.health.v1.Health" {
        "Check" HealthCheck Unary;
        "List" HealthList Unary;
        "Watch" HealthWatch ServerStream;
    }
}

/// Why a path names no method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownMethod<'a> {
    /// Not of the form `/service/method`.
    Malformed(&'a str),
    /// No such service.
    Service(&'a str),
    /// The service has no such method.
    Method {
        /// Service asked for.
        service: &'a str,
        /// Method asked for.
        name: &'a str,
    },
}

impl std::fmt::Display for UnknownMethod<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            UnknownMethod::Malformed(path) => write!(f, "malformed method name: {path:?}"),
            UnknownMethod::Service(service) => write!(f, "unknown service {service}"),
            UnknownMethod::Method { service, name } => {
                write!(f, "unknown method {name} for service {service}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_leads_back_to_its_method() {
        // 49 methods of etcd and three of the health service.
        assert_eq!(Method::ALL.len(), 52);
        for method in Method::ALL {
            assert_eq!(Method::from_path(method.path()), Ok(*method));
            let path = format!("/{}/{}", method.service(), method.name());
            assert_eq!(path, method.path());
        }
    }

    #[test]
    fn unknown_paths_say_what_is_unknown() {
        let check = |path: &str, expected: &str| {
            assert_eq!(Method::from_path(path).unwrap_err().to_string(), expected);
        };
        check(
            "/etcdserverpb.KV/Get",
            "unknown method Get for service etcdserverpb.KV",
        );
        check("/etcdserverpb.Kv/Put", "unknown service etcdserverpb.Kv");
        check("/a/b/Put", "unknown service a/b");
        check("/Put", "malformed method name: \"/Put\"");
        check("", "malformed method name: \"\"");
    }

    #[test]
    fn streams_are_known() {
        let streams: Vec<Method> = Method::ALL
            .iter()
            .copied()
            .filter(|m| m.shape() != Shape::Unary)
            .collect();
        assert_eq!(
            streams,
            [
                Method::RangeStream,
                Method::Watch,
                Method::LeaseKeepAlive,
                Method::Snapshot,
                Method::Observe,
                Method::HealthWatch
            ]
        );
    }
}
