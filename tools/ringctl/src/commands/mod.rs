//! What each command does. A command checks its arguments in etcdctl's order, asks, and prints.

mod alarm;
mod auth;
mod check;
mod downgrade;
mod elect;
mod endpoint;
mod keys;
mod lease;
mod lock;
mod member;
mod mirror;
mod request;
mod role;
mod session;
mod snapshot;
mod snapshot_file;
mod storage;
mod transaction;
mod user;
mod utility;
mod watch;
mod watch_words;

use crate::cli::spec::Action;
use crate::context::Context;
use crate::exit::Exit;

/// Runs the command.
pub(crate) async fn run(action: Action, context: Context) -> Result<(), Exit> {
    match action {
        Action::AlarmDisarm => alarm::disarm(context).await,
        Action::AlarmList => alarm::list(context).await,
        Action::AuthDisable => auth::disable(context).await,
        Action::AuthEnable => auth::enable(context).await,
        Action::AuthStatus => auth::status(context).await,
        Action::CheckDatascale => check::datascale::run(context).await,
        Action::CheckPerf => check::perf::run(context).await,
        Action::Compaction => storage::compaction(context).await,
        Action::Completion => utility::completion(&context),
        Action::Defrag => storage::defrag(context).await,
        Action::Del => keys::del(context).await,
        Action::DowngradeCancel => downgrade::cancel(context).await,
        Action::DowngradeEnable => downgrade::enable(context).await,
        Action::DowngradeValidate => downgrade::validate(context).await,
        Action::Elect => elect::run(context).await,
        Action::EndpointHashkv => endpoint::hashkv(context).await,
        Action::EndpointHealth => endpoint::health(context).await,
        Action::EndpointStatus => endpoint::status(context).await,
        Action::Get => keys::get(context).await,
        Action::LeaseGrant => lease::grant(context).await,
        Action::LeaseKeepAlive => lease::keep_alive(context).await,
        Action::LeaseList => lease::list(context).await,
        Action::LeaseRevoke => lease::revoke(context).await,
        Action::LeaseTimeToLive => lease::time_to_live(context).await,
        Action::Lock => lock::run(context).await,
        Action::MakeMirror => mirror::run(context).await,
        Action::Man => utility::man(&context),
        Action::MemberAdd => member::add(context).await,
        Action::MemberList => member::list(context).await,
        Action::MemberPromote => member::promote(context).await,
        Action::MemberRemove => member::remove(context).await,
        Action::MemberUpdate => member::update(context).await,
        Action::MoveLeader => member::move_leader(context).await,
        Action::Options => utility::options(),
        Action::Put => keys::put(context).await,
        Action::RoleAdd => role::add(context).await,
        Action::RoleDelete => role::delete(context).await,
        Action::RoleGet => role::get(context).await,
        Action::RoleGrantPermission => role::grant_permission(context).await,
        Action::RoleList => role::list(context).await,
        Action::RoleRevokePermission => role::revoke_permission(context).await,
        Action::SnapshotRestore => snapshot_file::restore(&context),
        Action::SnapshotSave => snapshot::save(context).await,
        Action::SnapshotStatus => snapshot_file::status(context),
        Action::Txn => transaction::run(context).await,
        Action::UserAdd => user::add(context).await,
        Action::UserDelete => user::delete(context).await,
        Action::UserGet => user::get(context).await,
        Action::UserGrantRole => user::grant_role(context).await,
        Action::UserList => user::list(context).await,
        Action::UserPassword => user::password_change(context).await,
        Action::UserRevokeRole => user::revoke_role(context).await,
        Action::Version => utility::version(&context),
        Action::Watch => watch::run(context).await,
    }
}
