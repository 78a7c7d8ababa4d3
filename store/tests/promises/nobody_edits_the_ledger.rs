//! Goal: only the ledger's functions write it, and they add nothing that does not balance; of those that the programs may call, each
//! looks at what it is for (docs/adr/0013 says what is left to whoever has the api's password).

use flowai_actors::ids::{JobId, UserId};
use flowai_store::database::{self, Database};
use sqlx::AssertSqlSafe;

use crate::farm::Farm;
use crate::money_balances::{assert_balanced, balance, imbalances};

/// The error's text.
async fn refusal(database: &Database, user: UserId, statement: &str) -> String {
    let mut transaction = database.begin_as(user).await.unwrap();
    let done = sqlx::query(AssertSqlSafe(statement.to_owned()));
    let error = done.execute(&mut *transaction).await;
    error.expect_err(statement).to_string()
}

#[tokio::test]
async fn nobody_edits_the_ledger() {
    let mut farm = Farm::start().await;
    let job = farm.queue().await;
    let user = farm.user;
    let tables = [
        ("ledger_accounts", "kind = 'held'"),
        ("ledger_txns", "kind = 'gift'"),
        ("ledger_entries", "amount_mc = 1"),
        ("credit_lots", "remaining_mc = granted_mc"),
        ("credit_holds", "captured_mc = 0"),
        ("credit_balances", "available_mc = 1000000"),
    ];
    for (table, change) in tables {
        for database in [&farm.app, &farm.database] {
            for statement in [
                format!("update {table} set {change}"),
                format!("delete from {table}"),
                format!("truncate {table} cascade"),
                format!("insert into {table} default values"),
            ] {
                let refusal = refusal(database, user, &statement).await;
                assert!(
                    refusal.contains("permission denied"),
                    "{statement}: {refusal}"
                );
            }
        }
    }
    // Nor may a program give, take for somebody else, or end what has not ended.
    for statement in [
        format!("select ledger_grant('{user}', 'gift', 'gift:{user}:x', 1, null, 'x')"),
        "select ledger_end_holds(array[]::uuid[], array[]::int[], array[]::int[])".to_owned(),
        format!(
            "select ledger_hold_all(array['{}'::uuid], array[1], 1)",
            JobId::generate()
        ),
        format!(
            "select ledger_hold_each(array['{job}'::uuid], array['{user}'::uuid], array[1], array[1])"
        ),
    ] {
        let refusal = refusal(&farm.app, user, &statement).await;
        assert!(
            refusal.contains("permission denied"),
            "{statement}: {refusal}"
        );
    }
    let balance_before = balance(&farm, user).await;
    for statement in [
        format!("select ledger_end_own_hold('{job}')"),
        "select verdict from ledger_grant_as_admin('x@example.org', 5, 'x', 'x')".to_owned(),
    ] {
        let mut transaction = farm.app.begin_as(user).await.unwrap();
        let done = sqlx::query(AssertSqlSafe(statement)).execute(&mut *transaction);
        done.await.unwrap();
        database::commit(transaction).await.unwrap();
    }
    assert_eq!(balance(&farm, user).await, balance_before);
    // Whoever owns the tables has to take the triggers away first.
    for (table, column) in [
        ("ledger_accounts", "kind"),
        ("ledger_txns", "kind"),
        ("ledger_entries", "place"),
    ] {
        for statement in [
            format!("update {table} set {column} = {column}"),
            format!("delete from {table}"),
            format!("truncate {table} cascade"),
        ] {
            let refusal = farm.refusal(&statement).await;
            assert!(refusal.contains("append only"), "{statement}: {refusal}");
        }
    }
    // And adds nothing that does not balance.
    let entry = "insert into ledger_entries select id, 9, 1, null, 5 from ledger_txns limit 1";
    assert!(farm.refusal(entry).await.contains("sum to zero"));
    let txn = format!(
        "insert into ledger_txns (kind, business_id, owner_id) values ('gift', 'gift:{user}:y', '{user}')"
    );
    assert!(farm.refusal(&txn).await.contains("two entries or more"));
    assert_balanced(&imbalances(&farm).await);
}
