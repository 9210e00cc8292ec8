//! What a Lambda function's keys mean, and which errors are for good.

use super::*;

#[test]
fn a_lambda_function_takes_one_at_a_time_and_finds_its_handler_in_the_command() {
    let lambda = |command: &str, more: &str| {
        function(&format!("[functions.f]\ncommand = [{command}]\nevents = [\"a.b\"]\nruntime = \"lambda\"\n{more}\n"))
    };
    let python = lambda("\"python3\", \"-m\", \"awslambdaric\", \"app.handler\"", "");
    assert_eq!((python.runtime, python.slots, python.handler.as_str()), (Runtime::Lambda, 1, "app.handler"));
    assert_eq!(lambda("\"./bootstrap\"", "").handler, "f");
    let told = lambda("\"./run\", \"-v\"", "handler = \"main\"\nslots = 8\nroot = \"fn\"");
    assert_eq!((told.handler.as_str(), told.slots, told.root.as_deref()), ("main", 8, Some("fn")));
}

#[test]
fn every_shape_has_its_word_and_every_word_its_shape() {
    let words: Vec<&str> = Shape::ALL.iter().map(|shape| shape.as_str()).collect();
    assert_eq!(words, crate::manifest::keys::SHAPES);
}

#[test]
fn an_error_is_terminal_by_its_whole_type_or_its_last_part() {
    let function = function(&with("terminal_errors = [\"ValidationError\", \"a.B\"]"));
    for kind in ["ValidationError", "orders::ValidationError", "orders.ValidationError", "a.B", "x.a.B"] {
        assert!(function.is_terminal(kind), "{kind}");
    }
    for kind in ["", "MyValidationError", "ValidationErrors", "B", "Validation"] {
        assert!(!function.is_terminal(kind), "{kind}");
    }
}
