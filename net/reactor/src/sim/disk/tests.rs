//! The disk alone: what a power cut may and may not leave.

use std::path::Path;

use super::*;
use crate::sim::FaultKind;

const FILE: &str = "/data/file";

fn disk_with_file() -> (Disk, InodeId) {
    let mut disk = Disk::new();
    disk.create_dir_all(Path::new("/data")).unwrap();
    let inode = disk.open(Path::new(FILE), Create::New).unwrap();
    disk.reserve(inode, 16_384).unwrap();
    sync_all(&mut disk, inode);
    (disk, inode)
}

/// Makes the file, its name and its directory's name durable.
fn sync_all(disk: &mut Disk, inode: InodeId) {
    let cover = disk.cover();
    disk.sync(inode, cover);
    for directory in ["/", "/data"] {
        let directory = disk.find_directory(Path::new(directory)).unwrap();
        disk.sync_directory(directory, cover);
    }
    disk.check();
}

fn cut(disk: &mut Disk, style: CutStyle, seed: u64) -> Coverage {
    let mut coverage = Coverage::default();
    disk.power_cut(style, &mut Random::new(seed), &mut coverage);
    disk.check();
    coverage
}

fn content(disk: &Disk) -> Vec<u8> {
    disk.image().read(FILE).unwrap()
}

#[test]
fn synced_bytes_survive_every_cut() {
    for seed in 0..200 {
        let (mut disk, inode) = disk_with_file();
        disk.land(inode, 4096, &[7; 4096]).unwrap();
        let cover = disk.cover();
        disk.sync(inode, cover);
        disk.land(inode, 8192, &[9; 4096]).unwrap();
        cut(&mut disk, CutStyle::Seeded, seed);
        assert_eq!(content(&disk)[4096..8192], [7; 4096], "seed {seed}");
        assert_eq!(content(&disk).len(), 16_384);
    }
}

#[test]
fn un_synced_bytes_are_visible_until_the_cut_and_then_kept_lost_or_torn() {
    let mut seen = Coverage::default();
    let (mut whole, mut nothing, mut mixed) = (0, 0, 0);
    for seed in 0..300 {
        let (mut disk, inode) = disk_with_file();
        disk.land(inode, 0, &[7; 8192]).unwrap();
        assert_eq!(content(&disk)[..8192], [7; 8192]);
        seen.merge(&cut(&mut disk, CutStyle::Seeded, seed));
        let left = content(&disk);
        let kept = left[..8192]
            .chunks(512)
            .filter(|sector| sector.iter().all(|&byte| byte == 7))
            .count();
        match kept {
            16 => whole += 1,
            0 => nothing += 1,
            _ => mixed += 1,
        }
        assert!(
            left[8192..].iter().all(|&byte| byte == 0),
            "no other sector changes"
        );
    }
    assert!(
        whole > 20 && nothing > 20 && mixed > 60,
        "{whole} whole, {nothing} lost, {mixed} mixed"
    );
    for kind in [
        FaultKind::SectorKept,
        FaultKind::SectorLost,
        FaultKind::SectorTorn,
    ] {
        assert!(seen.count(kind) > 100, "{}", kind.name());
    }
}

#[test]
fn a_sync_covers_only_what_had_landed_when_it_was_submitted() {
    let (mut disk, inode) = disk_with_file();
    disk.land(inode, 0, &[1; 4096]).unwrap();
    let cover = disk.cover();
    disk.land(inode, 0, &[2; 512]).unwrap();
    disk.sync(inode, cover);
    cut(&mut disk, CutStyle::AllLost, 0);
    assert_eq!(content(&disk)[..4096], [1; 4096]);
}

#[test]
fn nothing_is_durable_before_the_sync_completes() {
    let (mut disk, inode) = disk_with_file();
    disk.land(inode, 0, &[1; 4096]).unwrap();
    disk.cover();
    cut(&mut disk, CutStyle::AllLost, 0);
    assert_eq!(content(&disk)[..4096], [0; 4096]);
}

#[test]
fn a_failed_sync_is_not_made_good_by_the_next_one() {
    let (mut disk, inode) = disk_with_file();
    disk.land(inode, 0, &[1; 4096]).unwrap();
    let cover = disk.cover();
    assert!(disk.abandon(inode, cover));
    disk.land(inode, 512, &[2; 512]).unwrap();
    let cover = disk.cover();
    disk.sync(inode, cover);
    assert_eq!(content(&disk)[..512], [1; 512], "still visible");
    // What a later sync made durable is not undone by the abandoned write, whatever becomes of that.
    cut(&mut disk, CutStyle::AllKept, 0);
    assert_eq!(content(&disk)[512..1024], [2; 512]);
    assert_eq!(content(&disk)[1024..4096], [1; 3072]);

    let (mut disk, inode) = disk_with_file();
    disk.land(inode, 0, &[1; 4096]).unwrap();
    let cover = disk.cover();
    disk.abandon(inode, cover);
    disk.sync(inode, cover);
    cut(&mut disk, CutStyle::AllLost, 0);
    assert_eq!(content(&disk)[..4096], [0; 4096]);
}

#[test]
fn names_need_their_directory_synced() {
    let mut disk = Disk::new();
    disk.create_dir_all(Path::new("/data")).unwrap();
    let inode = disk.open(Path::new(FILE), Create::New).unwrap();
    disk.land(inode, 0, &[1; 512]).unwrap();
    let cover = disk.cover();
    disk.sync(inode, cover);
    // The directory's own name is in its parent.
    let data = disk.find_directory(Path::new("/data")).unwrap();
    disk.sync_directory(data, cover);
    let coverage = cut(&mut disk, CutStyle::AllLost, 0);
    assert_eq!(coverage.count(FaultKind::EntryLost), 1);
    assert!(disk.find_directory(Path::new("/data")).is_err());
}

#[test]
fn an_un_synced_rename_happened_or_did_not() {
    let (mut before, mut after) = (0, 0);
    for seed in 0..100 {
        let (mut disk, inode) = disk_with_file();
        disk.land(inode, 0, &[1; 512]).unwrap();
        sync_all(&mut disk, inode);
        let temporary = disk
            .open(Path::new("/data/temporary"), Create::New)
            .unwrap();
        disk.land(temporary, 0, &[2; 512]).unwrap();
        sync_all(&mut disk, temporary);
        disk.rename(Path::new("/data/temporary"), Path::new(FILE))
            .unwrap();
        assert_eq!(content(&disk)[..512], [2; 512]);
        cut(&mut disk, CutStyle::Seeded, seed);
        let names: Vec<_> = disk
            .list(Path::new("/data"))
            .unwrap()
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        match content(&disk)[0] {
            1 => {
                assert_eq!(names, ["file", "temporary"]);
                before += 1;
            }
            2 => {
                assert_eq!(names, ["file"]);
                after += 1;
            }
            other => panic!("neither file: {other}"),
        }
    }
    assert!(before > 20 && after > 20);
}

#[test]
fn an_unlinked_file_may_come_back_and_its_space_is_freed_when_it_cannot() {
    let (mut disk, inode) = disk_with_file();
    disk.close(inode);
    disk.set_capacity(20_000);
    disk.remove_file(Path::new(FILE)).unwrap();
    assert_eq!(disk.open(Path::new(FILE), Create::Never), Err(libc::ENOENT));
    cut(&mut disk, CutStyle::AllLost, 0);
    assert_eq!(content(&disk).len(), 16_384);
    disk.remove_file(Path::new(FILE)).unwrap();
    let data = disk.find_directory(Path::new("/data")).unwrap();
    let cover = disk.cover();
    disk.sync_directory(data, cover);
    disk.check();
    let next = disk.open(Path::new("/data/next"), Create::New).unwrap();
    assert_eq!(disk.reserve(next, 20_481), Err(libc::ENOSPC));
    disk.reserve(next, 16_384).unwrap();
    assert_eq!(disk.land(next, 16_384, &[1; 4096]), Err(libc::ENOSPC));
    disk.land(next, 12_288, &[1; 4096]).unwrap();
}

#[test]
fn a_rename_made_durable_from_either_side_keeps_the_order_of_its_names() {
    let mut disk = Disk::new();
    disk.create_dir_all(Path::new("/one")).unwrap();
    disk.create_dir_all(Path::new("/two")).unwrap();
    disk.open(Path::new("/two/file"), Create::New).unwrap();
    let moved = disk.open(Path::new("/one/file"), Create::New).unwrap();
    disk.reserve(moved, 512).unwrap();
    disk.rename(Path::new("/one/file"), Path::new("/two/file"))
        .unwrap();
    let cover = disk.cover();
    disk.sync(moved, cover);
    for directory in ["/", "/one"] {
        let directory = disk.find_directory(Path::new(directory)).unwrap();
        disk.sync_directory(directory, cover);
    }
    cut(&mut disk, CutStyle::AllLost, 0);
    assert_eq!(
        disk.list(Path::new("/two")).unwrap(),
        [("file".to_owned(), 512)]
    );
    assert_eq!(disk.list(Path::new("/one")).unwrap(), []);
}

#[test]
fn an_image_goes_back_and_forth() {
    let (mut disk, inode) = disk_with_file();
    disk.land(inode, 100, b"hello").unwrap();
    assert!(!disk.image().same_bytes(&disk.durable_image()));
    let image = disk.image();
    let mut other = Disk::new();
    other.restore(&image);
    other.check();
    assert!(other.image().same_bytes(&image) && other.durable_image().same_bytes(&image));
    assert!(other.overwrite(Path::new(FILE), 100, b"J"));
    assert_eq!(content(&other)[100..105], *b"Jello");
    assert_eq!(content(&disk)[100..105], *b"hello");
    assert!(!other.overwrite(Path::new("/data/none"), 0, b"x"));
}

#[test]
fn paths_are_checked() {
    let (mut disk, _) = disk_with_file();
    let open = |disk: &mut Disk, path: &str| disk.open(Path::new(path), Create::New);
    assert_eq!(open(&mut disk, FILE), Err(libc::EEXIST));
    assert_eq!(open(&mut disk, "/data/../x"), Err(libc::EINVAL));
    assert_eq!(open(&mut disk, "/data/file/x"), Err(libc::ENOTDIR));
    assert_eq!(open(&mut disk, "/none/x"), Err(libc::ENOENT));
    assert_eq!(
        disk.open(Path::new("/data"), Create::Never),
        Err(libc::EISDIR)
    );
    assert_eq!(disk.remove_file(Path::new("/data")), Err(libc::EISDIR));
    assert_eq!(
        disk.create_dir_all(Path::new("/data/file/x")),
        Err(libc::EEXIST)
    );
}
