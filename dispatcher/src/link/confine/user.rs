//! The user that a worker runs as.

use std::fmt;

use rustix::process::{Gid, Uid};

/// A user of this machine and its group. No other groups come with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) uid: Uid,
    pub(crate) gid: Gid,
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}:{})", self.name, self.uid.as_raw(), self.gid.as_raw())
    }
}

/// Finds a user by name in the text of `/etc/passwd` (passwd(5); no other directory of users is asked), or takes two
/// numbers, `UID:GID`, as they are.
pub(crate) fn find(passwd: &str, wanted: &str) -> Option<User> {
    let user = |uid: &str, gid: &str| {
        // The last number of all is no user: the kernel takes it for "leave it as it is".
        let number = |text: &str| text.parse::<u32>().ok().filter(|number| *number != u32::MAX);
        let (uid, gid) = (Uid::from_raw(number(uid)?), Gid::from_raw(number(gid)?));
        Some(User { name: wanted.to_owned(), uid, gid })
    };
    if let Some((uid, gid)) = wanted.split_once(':') {
        return user(uid, gid);
    }
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, _password, uid, gid) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        if name == wanted { user(uid, gid) } else { None }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65533:nobody:/:/usr/sbin/nologin\nbroken:x\n";

    fn ids(wanted: &str) -> Option<(u32, u32)> {
        find(PASSWD, wanted).map(|user| (user.uid.as_raw(), user.gid.as_raw()))
    }

    #[test]
    fn a_user_is_a_name_of_the_machine_or_two_numbers() {
        assert_eq!(ids("nobody"), Some((65534, 65533)));
        assert_eq!(ids("1000:100"), Some((1000, 100)));
        for wanted in ["nob", "", "broken", "1000:", ":1", "1000:-1", "4294967295:1", "x:0:0"] {
            assert_eq!(ids(wanted), None, "{wanted}");
        }
    }
}
