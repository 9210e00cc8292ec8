//! The tables `limits` and `isolation`: what a worker is confined to.

use super::bytes;
use super::keys;
use super::parse::or_default;
use super::view::{Faulty, View};
use super::{Isolation, Limits};

/// `memory`: as it was read, for a temporary folder is kept in it.
pub(super) fn read_limits(view: &View<'_, '_>, memory: &Result<u64, Faulty>) -> Result<Limits, Faulty> {
    let Some(table) = view.table(&keys::LIMITS)? else { return Ok(Limits::default()) };
    let (cpu, files, processes) = (table.number(&keys::CPU), table.count(&keys::FILES), table.count(&keys::PROCESSES));
    let (disk, file_size) = (table.bytes(&keys::DISK), table.bytes(&keys::FILE_SIZE));
    let output = or_default(table.bytes(&keys::OUTPUT), &keys::OUTPUT);
    let disk_bytes = disk?;
    if let (Some(disk), Ok(memory)) = (disk_bytes, memory)
        && disk > *memory
    {
        let (disk, memory) = (bytes::format(disk), bytes::format(*memory));
        let message = format!("limits.disk ({disk}) is more than memory ({memory}), which it is kept in");
        let help = format!("write at most \"{memory}\", or give more memory");
        return Err(table.document.fault(table.span_of(keys::DISK.name), message, help));
    }
    Ok(Limits {
        cpu: cpu?,
        files: files?,
        processes: processes?,
        disk_bytes,
        file_size_bytes: file_size?,
        output_bytes: output?,
    })
}

pub(super) fn read_isolation(view: &View<'_, '_>) -> Result<Isolation, Faulty> {
    let Some(table) = view.table(&keys::ISOLATION)? else { return Ok(Isolation::default()) };
    let user = table.text(&keys::USER);
    let (read_only, network) = (table.flag(&keys::READ_ONLY), table.flag(&keys::NETWORK));
    let write = table.texts(&keys::WRITE)?.unwrap_or_default();
    let (user, read_only, network) = (user?, read_only?, network?);
    if !write.is_empty() && !read_only {
        let message = "isolation.write says nothing without isolation.read_only";
        let help = "write read_only = true beside it, or take it out";
        return Err(table.document.fault(table.span_of(keys::WRITE.name), message, help));
    }
    Ok(Isolation { user, read_only, write: write.into_iter().map(|(path, _)| path).collect(), network })
}
