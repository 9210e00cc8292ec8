#![allow(clippy::unwrap_used)]
use proptest::prelude::*;

use super::*;

fn arrived<'a>(method: &'a str, path: &'a str, query: &'a str, headers: &[(&'a str, &str)], body: &'a [u8]) -> Value {
    let headers = headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    let time = "2020-03-12T19:03:58.390Z".parse().unwrap();
    let arrived = Arrived {
        function: "shop",
        method,
        path,
        query,
        protocol: "HTTP/1.1",
        headers,
        body,
        source_ip: "192.0.2.7",
        request_id: "id",
        time,
    };
    arrived.document()
}

#[test]
fn a_request_becomes_payload_format_2() {
    let headers = [
        ("Host", "shop.example"),
        ("X-One", "1"),
        ("x-one", "2"),
        ("Cookie", "a=1; b=2"),
        ("cookie", "c=3"),
        ("User-Agent", "test"),
        ("Content-Type", "application/json; charset=utf-8"),
    ];
    let document = arrived("POST", "/a%20b", "q=1&q=x+y%21&empty", &headers, br#"{"n":1}"#);
    assert_eq!(
        document,
        json!({
            "version": "2.0",
            "routeKey": "$default",
            "rawPath": "/a%20b",
            "rawQueryString": "q=1&q=x+y%21&empty",
            "cookies": ["a=1", "b=2", "c=3"],
            "headers": {
                "host": "shop.example", "x-one": "1,2", "user-agent": "test",
                "content-type": "application/json; charset=utf-8",
            },
            "queryStringParameters": { "q": "1,x y!", "empty": "" },
            "requestContext": {
                "accountId": "anonymous",
                "apiId": "shop",
                "domainName": "shop.example",
                "domainPrefix": "shop",
                "http": {
                    "method": "POST", "path": "/a%20b", "protocol": "HTTP/1.1", "sourceIp": "192.0.2.7",
                    "userAgent": "test",
                },
                "requestId": "id",
                "routeKey": "$default",
                "stage": "$default",
                "time": "12/Mar/2020:19:03:58 +0000",
                "timeEpoch": 1_584_039_838_390_i64,
            },
            "body": r#"{"n":1}"#,
            "isBase64Encoded": false,
        })
    );
}

#[test]
fn a_body_is_text_where_it_says_so_and_is_and_base64_else() {
    let body = |kind: &str, body: &[u8]| {
        let document = arrived("POST", "/", "", &[("content-type", kind)], body);
        (document.get("body").cloned(), document["isBase64Encoded"].as_bool().unwrap())
    };
    assert_eq!(body("text/plain", b"hi"), (Some("hi".into()), false));
    assert_eq!(body("application/vnd.api+json", b"{}"), (Some("{}".into()), false));
    assert_eq!(body("image/png", b"hi"), (Some("aGk=".into()), true));
    assert_eq!(body("application/x-www-form-urlencoded", b"a=b"), (Some("YT1i".into()), true));
    assert_eq!(body("text/plain", &[0xff]), (Some("/w==".into()), true));
    assert_eq!(body("", b"hi"), (Some("aGk=".into()), true));
    assert_eq!(body("image/png", b""), (None, false));
    let none = arrived("GET", "/", "", &[], b"");
    assert!(none.get("queryStringParameters").is_none() && none.get("cookies").is_none());
}

fn read(result: &[u8]) -> (u16, Vec<(String, String)>, Vec<u8>) {
    let Answer { status, headers, body } = Answer::of_result(result).unwrap();
    (status, headers, body.to_vec())
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn an_answer_is_read_as_aws_reads_it() {
    let json_type = [("content-type", "application/json")];
    for (result, status, headers, body) in [
        (r#"{"message":"hi"}"#, 200, &json_type[..], r#"{"message":"hi"}"#),
        (r#""hi""#, 200, &json_type, "hi"),
        ("null", 200, &json_type, "null"),
        ("[1, 2]", 200, &json_type, "[1, 2]"),
        (r#"{"statusCode":204}"#, 204, &[], ""),
        (r#"{"statusCode":"201","body":"x"}"#, 201, &json_type, "x"),
        (
            r#"{"statusCode":200,"body":"aGk=","isBase64Encoded":true,"headers":{"Content-Type":"image/png"}}"#,
            200,
            &[("content-type", "image/png")],
            "hi",
        ),
        (
            r#"{"statusCode":302,"headers":{"Location":"/x","X-N":7,"x-b":true,"x-null":null,"Content-Length":"9"},"cookies":["a=1","b=2"]}"#,
            302,
            &[("location", "/x"), ("x-n", "7"), ("x-b", "true"), ("set-cookie", "a=1"), ("set-cookie", "b=2")],
            "",
        ),
        (
            r#"{"statusCode":200,"headers":{"x-a":"single","x-c":"c"},"multiValueHeaders":{"X-A":["1","2"]}}"#,
            200,
            &[("x-c", "c"), ("x-a", "1"), ("x-a", "2")],
            "",
        ),
    ] {
        let mut got = read(result.as_bytes());
        let mut expected = pairs(headers);
        got.1.sort();
        expected.sort();
        assert_eq!(got, (status, expected, body.as_bytes().to_vec()), "{result}");
    }
}

#[test]
fn an_answer_that_is_none_is_told_and_not_quoted() {
    for result in [
        "",
        "{",
        r#"{"statusCode":99}"#,
        r#"{"statusCode":101}"#,
        r#"{"statusCode":600}"#,
        r#"{"statusCode":true,"body":"s3cret"}"#,
        r#"{"statusCode":200,"body":{"s3cret":1}}"#,
        r#"{"statusCode":200,"body":"s3cret!","isBase64Encoded":true}"#,
        r#"{"statusCode":200,"headers":["s3cret"]}"#,
        r#"{"statusCode":200,"headers":{"a":["s3cret"]}}"#,
        r#"{"statusCode":200,"cookies":"s3cret"}"#,
        r#"{"statusCode":200,"isBase64Encoded":"s3cret"}"#,
    ] {
        let error = Answer::of_result(result.as_bytes()).unwrap_err();
        assert!(!error.to_string().contains("s3cret"), "{error}");
    }
}

#[test]
fn a_stream_is_its_prelude_and_then_its_body_whole_or_kept_as_json() {
    let prelude = br#"{"statusCode":201,"headers":{"content-type":"text/html"},"cookies":["a=1"]}"#;
    for (body, encoded) in [(&b"<p>"[..], false), (&[0, 0xff, 0][..], true), (b"", false)] {
        let stream = [&prelude[..], &DELIMITER, body].concat();
        let expected = (201, pairs(&[("content-type", "text/html"), ("set-cookie", "a=1")]), body.to_vec());
        assert_eq!(read(&stream), expected);
        let kept = buffered(&stream).unwrap();
        assert_eq!(kept["isBase64Encoded"], encoded);
        assert_eq!(read(kept.to_string().as_bytes()), expected);
    }
    assert!(Answer::of_result(b"no\0\0\0\0\0\0\0\0body").is_err());
    assert!(buffered(b"{}").is_err());
    assert_eq!(read(b"{}\0\0\0\0\0\0\0\0x").0, 200);
}

proptest! {
    #[test]
    fn no_answer_makes_it_panic(result in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Answer::of_result(&result);
        let _ = buffered(&result);
    }

    #[test]
    fn an_answer_of_any_bytes_comes_out_as_they_were(status in 200u16..600, body in prop::collection::vec(any::<u8>(), 0..200)) {
        let result = json!({ "statusCode": status, "body": BASE64.encode(&body), "isBase64Encoded": true });
        let answer = Answer::of_result(result.to_string().as_bytes()).unwrap();
        prop_assert_eq!((answer.status, answer.body.to_vec()), (status, body));
    }

    #[test]
    fn a_request_of_any_bytes_can_be_read_by_its_function(
        body in prop::collection::vec(any::<u8>(), 0..200), kind in ".{0,20}", query in ".{0,40}",
    ) {
        let document = arrived("POST", "/", &query, &[("content-type", &kind)], &body);
        let text = document.get("body").and_then(Value::as_str).unwrap_or_default();
        let read = if document["isBase64Encoded"] == true { BASE64.decode(text).unwrap() } else { text.as_bytes().to_vec() };
        prop_assert_eq!(read, body);
    }
}
