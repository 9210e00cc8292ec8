//! `env`.

use super::*;

#[test]
fn each_rule_of_an_environment_has_its_fault() {
    each_is_refused(&[
        ("env = { \"1A\" = \"x\" }", "\"1A\" names no variable"),
        ("env = { WEFT_LINK_FD = \"3\" }", "WEFT_LINK_FD is reserved"),
        ("env = { A = \"${B\" }", "env: A: ${ is never closed; write ${NAME}"),
        ("env = { A = \"${B-C}\" }", "${B-C} names no variable"),
        ("env = { A = 1 }", "put the value in quotes"),
        ("env = []", "of type array, not table"),
    ]);
}

#[test]
fn a_secret_in_a_faulty_environment_is_not_shown() {
    assert!(!shown(&with("env = { A = \"hunter2${\" }")).join("").contains("hunter2"));
}
