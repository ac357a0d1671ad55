//! Member and cluster ids, derived as etcd derives them, so that tools which compute them agree.

use sha1::{Digest, Sha1};

use crate::config::url::Url;

/// Who this member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Cluster id.
    pub cluster_id: u64,
    /// Member id.
    pub member_id: u64,
}

impl Identity {
    /// Ids of a new one-member cluster: the member id is the first eight bytes of
    /// SHA-1(sorted peer URLs, token), the cluster id those of SHA-1(all member ids).
    pub fn of_new_cluster(peer_urls: &[Url], token: &str) -> Identity {
        let mut urls: Vec<&str> = peer_urls.iter().map(Url::as_str).collect();
        urls.sort_unstable();
        let member_id = first_eight(&[urls.concat().as_bytes(), token.as_bytes()]);
        let cluster_id = first_eight(&[&member_id.to_be_bytes()]);
        Identity {
            cluster_id,
            member_id,
        }
    }
}

fn first_eight(parts: &[&[u8]]) -> u64 {
    let mut hasher = Sha1::new();
    for part in parts {
        hasher.update(part);
    }
    let digest = hasher.finalize();
    let mut eight = [0; 8];
    eight.copy_from_slice(&digest[..8]);
    u64::from_be_bytes(eight)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_well_known_default_ids() {
        let urls = [Url::parse("http://localhost:2380").unwrap()];
        let identity = Identity::of_new_cluster(&urls, "etcd-cluster");
        assert_eq!(identity.member_id, 0x8e9e_05c5_2164_694d);
        assert_eq!(identity.cluster_id, 0xcdf8_1819_4e3a_8c32);
    }
}
