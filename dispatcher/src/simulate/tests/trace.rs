//! The three files: what is read, and what is told of those that cannot be.

use super::*;

const INVOCATIONS: &str = "HashOwner,HashApp,HashFunction,Trigger,480,481,482\no,a,f,timer,0,2,1\no,a,g,http,1,0,0\n";
const DURATIONS: &str = "HashOwner,HashApp,HashFunction,Average,Count,Minimum,Maximum,percentile_Average_0,\
    percentile_Average_50,percentile_Average_100\no,a,g,9,1,1,90,1,10,90\no,a,f,5,3,1,9,1,5,9\n";
const MEMORY: &str = "HashFunction,HashOwner,HashApp,SampleCount,AverageAllocatedMb\nf,o,a,9,12.5\ng,o,a,9,100\n";

fn faults(invocations: &str, durations: &str, memory: &str) -> Vec<String> {
    Trace::parse(invocations, durations, memory).unwrap_err().iter().map(ToString::to_string).collect()
}

#[test]
fn the_three_files_are_joined_by_function() {
    let trace = Trace::parse(INVOCATIONS, DURATIONS, MEMORY).unwrap();
    assert_eq!((trace.minutes, trace.incomplete), (3, 0));
    let names: Vec<_> = trace.functions.iter().map(|function| function.name.as_str()).collect();
    assert_eq!(names, ["f", "g"], "in the order of the counts");
    let f = &trace.functions[0];
    assert_eq!((f.counts.as_slice(), f.memory_mb), ([0, 2, 1].as_slice(), 12.5));
    assert_eq!(f.durations, Durations::new(vec![(0.0, 1.0), (0.5, 5.0), (1.0, 9.0)]).unwrap());
}

#[test]
fn memory_may_be_given_per_application_as_in_the_published_data() {
    let memory = "HashOwner,HashApp,SampleCount,AverageAllocatedMb\no,a,9,64\n";
    let trace = Trace::parse(INVOCATIONS, DURATIONS, memory).unwrap();
    assert!(trace.functions.iter().all(|function| function.memory_mb == 64.0));
}

#[test]
fn faults_name_file_and_line_and_what_to_do() {
    let cases = [
        (INVOCATIONS.replace("0,2,1", "0,two,1"), "invocations.csv:2: minute 481 holds \"two\": write how many"),
        (INVOCATIONS.replace("0,2,1", "0,-2,1"), "invocations.csv:2: minute 481 holds \"-2\""),
        (INVOCATIONS.replace("0,2,1", "0,2"), "invocations.csv:2: the row has 6 columns and the first line 7: add"),
        (INVOCATIONS.replace("480,481,482", "480,482,483"), "invocations.csv:1: minute 482 follows minute 480: put"),
        (
            INVOCATIONS.replace("480,481,482", "a,b,c"),
            "invocations.csv:1: no column is named after a minute: the columns",
        ),
        (INVOCATIONS.replace("HashApp", "App"), "invocations.csv:1: the column HashApp is missing: the first line"),
        (
            INVOCATIONS.replace("o,a,g,http", "o,a,f,http"),
            "invocations.csv:3: the same function stands in line 2: keep",
        ),
        (
            INVOCATIONS.replace("o,a,g,http", "o,a,h,http"),
            "invocations.csv:3: function h has no row in durations.csv: add",
        ),
        ("HashOwner,HashApp,HashFunction,1\n".to_owned(), "invocations.csv: no function is left: give a trace"),
    ];
    for (invocations, wanted) in cases {
        let found = faults(&invocations, DURATIONS, MEMORY);
        assert!(found.len() == 1 && found[0].starts_with(wanted), "{found:?}, not {wanted}");
    }
    let found = faults(INVOCATIONS, &DURATIONS.replace("1,10,90", "1,100,90"), MEMORY);
    assert!(found[0].starts_with("durations.csv:2: the percentiles do not ascend: mend"), "{found:?}");
    let found = faults(INVOCATIONS, &DURATIONS.replace("percentile_Average", "p"), MEMORY);
    assert!(found[0].starts_with("durations.csv:1: no column is named percentile_Average_N"), "{found:?}");
    let found = faults(INVOCATIONS, DURATIONS, &MEMORY.replace("12.5", "NaN"));
    assert!(found[0].starts_with("memory.csv:2: AverageAllocatedMb holds \"NaN\": write a number from 0"), "{found:?}");
    let found = faults(INVOCATIONS, DURATIONS, &MEMORY.replace("f,o,a,9,12.5\n", ""));
    assert!(found[0].starts_with("invocations.csv:2: function f has no row in memory.csv: add"), "{found:?}");
}

#[test]
fn all_faults_are_told_at_once_but_not_without_end() {
    let found = faults(&INVOCATIONS.replace("0,2,1", "x,2,1").replace("1,0,0", "1,y,0"), DURATIONS, MEMORY);
    assert_eq!(found.len(), 2, "{found:?}");
    let mut many = INVOCATIONS.lines().next().unwrap().to_owned();
    (0..100).for_each(|nth| many.push_str(&format!("\no,a,f{nth},timer,0,z,0")));
    assert_eq!(faults(&many, DURATIONS, MEMORY).len(), 20);
}

#[test]
fn a_folder_is_read_by_short_or_by_published_names() {
    let folder = std::env::temp_dir().join(format!("weft-trace-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let missing = Trace::read(&folder, false).unwrap_err();
    assert_eq!(missing.len(), 3, "{missing:?}");
    assert!(missing[0].to_string().contains("holds neither invocations.csv nor a file whose name starts with"));
    std::fs::write(folder.join("invocations_per_function_md.anon.d01.csv"), INVOCATIONS).unwrap();
    std::fs::write(folder.join("function_durations_percentiles.anon.d01.csv"), DURATIONS).unwrap();
    std::fs::write(folder.join("memory.csv"), MEMORY.replace("g,o,a,9,100\n", "")).unwrap();
    let incomplete = Trace::read(&folder, false).unwrap_err();
    assert_eq!(incomplete.len(), 1, "{incomplete:?}");
    let trace = Trace::read(&folder, true).unwrap();
    assert_eq!((trace.functions.len(), trace.incomplete), (1, 1));
    std::fs::write(folder.join("invocations_per_function_md.anon.d02.csv"), INVOCATIONS).unwrap();
    let two = Trace::read(&folder, true).unwrap_err();
    assert!(two[0].to_string().contains("holds 2 files whose names start with"), "{two:?}");
    std::fs::write(folder.join("memory.csv"), [0xff, 0xfe]).unwrap();
    let binary = Trace::read(&folder, true).unwrap_err();
    assert!(binary.iter().any(|fault| fault.what.starts_with("is not UTF-8 text")), "{binary:?}");
    std::fs::remove_dir_all(&folder).unwrap();
}
