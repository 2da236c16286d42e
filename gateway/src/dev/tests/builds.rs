//! What `gateway dev --build` promises. The "build" installs the file `source` as the program.

use tempfile::TempDir;

use super::*;

const VERSION_1: &str = "#!/bin/sh\necho version 1\nexec sleep 1000";
const VERSION_2: &str = "#!/bin/sh\necho version 2\nexec sleep 1000";
const INSTALL: &str = "echo building; test -e source || exit 7
    cmp -s source worker && exit 0
    cp source worker.tmp && chmod +x worker.tmp && mv worker.tmp worker";

fn project(folder: &TempDir, build: &str) -> DevOptions {
    let command = vec![folder.path().join("worker").into_os_string()];
    DevOptions { command, build: Some(build.to_owned()), ..in_project(folder) }
}

fn save(folder: &TempDir, name: &str, content: &str) {
    fs::write(folder.path().join(name), content).unwrap();
}

#[test]
fn the_workers_start_after_the_first_build() {
    check(async {
        let folder = tempfile::tempdir().unwrap();
        save(&folder, "source", VERSION_1);
        let dev = Dev::start(project(&folder, INSTALL));
        dev.line("worker 0 | version 1", 1).await;
        let output = dev.end().await;
        let begin = "dev | building; the workers are started when that is done\n\
                     build | building\ndev | worker 0 is process ";
        assert!(output.starts_with(begin), "{output}");
    });
}

#[test]
fn a_change_of_the_sources_builds_and_rolls_once() {
    check(async {
        let folder = tempfile::tempdir().unwrap();
        save(&folder, "source", VERSION_1);
        let dev = Dev::start(project(&folder, INSTALL));
        dev.line("worker 0 | version 1", 1).await;
        let _served = dev.serve(0).await;
        for round in 1..=3 {
            let next = if round % 2 == 1 { VERSION_2 } else { VERSION_1 };
            save(&folder, "source", next);
            dev.line("dev | source changed, building", round).await;
            dev.line("dev | all workers were restarted", round).await;
        }
        // By the time of this build, all that the watch saw of the last one has been judged.
        save(&folder, "README.md", "words");
        dev.line("dev | built; the workers' program is still the same", 1).await;
        assert_eq!(dev.count("dev | worker 0 is process"), 4);
        assert_eq!(dev.count("build | building"), 5);
        dev.end().await;
    });
}

#[test]
fn a_build_that_changes_nothing_restarts_nothing() {
    check(async {
        let folder = tempfile::tempdir().unwrap();
        save(&folder, "source", VERSION_1);
        let dev = Dev::start(project(&folder, INSTALL));
        dev.line("worker 0 | version 1", 1).await;
        save(&folder, "README.md", "words");
        dev.line("dev | README.md changed, building", 1).await;
        dev.line("dev | built; the workers' program is still the same", 1).await;
        dev.end().await;
    });
}

#[test]
fn a_failed_build_leaves_the_workers_alone() {
    check(async {
        let folder = tempfile::tempdir().unwrap();
        save(&folder, "source", VERSION_1);
        let dev = Dev::start(project(&folder, INSTALL));
        dev.line("worker 0 | version 1", 1).await;
        fs::remove_file(folder.path().join("source")).unwrap();
        dev.line("dev | the build ended with exit code 7; the workers go on as they are", 1).await;
        assert_eq!(dev.count("dev | worker 0 is process"), 1);
        assert!(!dev.end().await.contains("worker 0 ended"));
    });
}

#[test]
fn a_failed_first_build_waits_for_a_change_when_there_is_no_program() {
    check(async {
        let folder = tempfile::tempdir().unwrap();
        let dev = Dev::start(project(&folder, INSTALL));
        let said = dev.line("dev | the build ended with exit code 7 and there is no ", 1).await;
        assert!(said.ends_with("waiting for the next change of the sources"), "{said}");
        save(&folder, "source", VERSION_1);
        dev.line("worker 0 | version 1", 1).await;
        dev.end().await;
    });
}

#[test]
fn a_failed_first_build_starts_the_program_that_is_there() {
    check(async {
        let folder = tempfile::tempdir().unwrap();
        install(&folder.path().join("worker"), VERSION_2);
        let dev = Dev::start(project(&folder, INSTALL));
        dev.line("dev | the build ended with exit code 7; starting the program that is there", 1)
            .await;
        dev.line("worker 0 | version 2", 1).await;
        dev.end().await;
    });
}

#[test]
fn changes_during_a_build_cause_exactly_one_more() {
    check(async {
        let (folder, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        install(&folder.path().join("worker"), VERSION_1);
        let go = outside.path().join("go");
        let build = format!("echo begun; until test -e {}; do sleep 0.02; done", go.display());
        let dev = Dev::start(project(&folder, &build));
        dev.line("build | begun", 1).await;
        for file in ["one.rs", "two.rs"] {
            save(&folder, file, "");
            dev.line(&format!("dev | {file} changed during the build"), 1).await;
        }
        fs::write(&go, "").unwrap();
        dev.line("worker 0 | version 1", 1).await;
        dev.line("dev | built; the workers' program is still the same", 1).await;
        // The next build is that of the next change.
        save(&folder, "three.rs", "");
        dev.line("dev | three.rs changed, building", 1).await;
        dev.line("dev | built; the workers' program is still the same", 2).await;
        assert_eq!(dev.count("build | begun"), 3);
        dev.end().await;
    });
}

#[test]
fn a_worker_that_cannot_be_started_ends_it_though_a_build_is_asked_for() {
    check(async {
        let (folder, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let go = outside.path().join("go");
        let build = format!("echo begun; until test -e {}; do sleep 0.02; done", go.display());
        let mut dev = Dev::start(project(&folder, &build));
        dev.line("build | begun", 1).await;
        save(&folder, "one.rs", "");
        dev.line("dev | one.rs changed during the build", 1).await;
        fs::write(&go, "").unwrap();
        assert!(matches!((&mut dev.run).await.unwrap(), Err(DevError::NotFound(_))));
        assert_eq!(dev.count("build | begun"), 1);
    });
}

#[test]
fn a_shutdown_ends_the_build_and_starts_nothing_after_it() {
    check(async {
        let folder = tempfile::tempdir().unwrap();
        install(&folder.path().join("worker"), VERSION_1);
        let build = r#"trap "exit 0" TERM; echo group $$; sleep 1000; true"#;
        let dev = Dev::start(project(&folder, build));
        let leader = dev.number("build | group ", 1).await;
        let all = members_of_group(leader, 2).await;
        save(&folder, "late.rs", "");
        dev.line("dev | late.rs changed during the build", 1).await;
        assert!(!dev.end().await.contains("worker 0"));
        assert!(all.iter().all(|&process| !is_alive(process)), "{all:?}");
    });
}
