//! Goal: a new leader that reads several pages of unfinished jobs at a time reads each job once.
//! Method: more jobs than two pages hold.

use std::collections::BTreeSet;

use flowai_actors::limits::RECOVERY_PAGE_JOBS;
use flowai_store::recovery::{now, page_end, unfinished};

use crate::farm::Farm;

#[tokio::test]
async fn pages_hold_every_job_once() {
    let mut farm = Farm::start().await;
    let job = farm.queue().await;
    let more = 2 * RECOVERY_PAGE_JOBS;
    for (table, key) in [("job", "id"), ("job_state", "job_id")] {
        farm.run(&format!(
            "insert into {table} select (jsonb_populate_record(t, jsonb_build_object('{key}',
                 lpad(to_hex(n), 8, '0') || '-0000-7000-8000-000000000000'))).*
               from {table} t, generate_series(1, {more}) n where t.{key} = '{job}'"
        ))
        .await;
    }
    let read_at = now(&farm.database).await.unwrap();
    let (mut after, mut pages, mut found) = (None, 0, Vec::new());
    loop {
        let end = page_end(&farm.database, after).await.unwrap();
        let page = unfinished(&farm.database, after, end, read_at)
            .await
            .unwrap();
        assert!(page.rows.len() <= RECOVERY_PAGE_JOBS as usize);
        found.extend(page.rows.iter().map(|row| row.job));
        pages += 1;
        after = end;
        if end.is_none() {
            break;
        }
    }
    let different: BTreeSet<_> = found.iter().collect();
    assert_eq!((pages, found.len()), (3, more as usize + 1));
    assert_eq!(different.len(), found.len());
    assert!(found.is_sorted());
}
