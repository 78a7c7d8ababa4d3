//! Goal: a join token admits as many machines as it says, each once, and only for an administrator; drains and revocations are
//! rows that outlive every leader.
//! Method: the leader's and the api's roles against a migrated PostgreSQL; machines that join at the same moment.

use std::time::Duration;

use flowai_actors::ids::{Epoch, NodeId, Sha256, UserId};
use flowai_actors::membership::{Facts, JoinToken, Labels};
use flowai_store::accounts;
use flowai_store::database::commit;
use flowai_store::join_tokens::{self, Certified, NewJoinToken, Redeemed, Redemption, redeem};
use flowai_store::members::{self, Drain, Renewal, Standing};
use sqlx::AssertSqlSafe;
use tokio::task::JoinSet;

use crate::farm::{FIRST, Farm, SECOND, node};

const HOUR: Duration = Duration::from_secs(3_600);

fn labels() -> Labels {
    Labels::from([("gpu".to_owned(), "h100".to_owned())])
}

impl Farm {
    async fn become_admin(&mut self) {
        self.make_admin(self.user).await;
    }

    async fn make_admin(&mut self, user: UserId) {
        self.run(&format!(
            "update account set role = 'admin' where id = '{user}'"
        ))
        .await;
    }

    async fn token(&self, uses: u32) -> JoinToken {
        let token = JoinToken::generate(Sha256::from_bytes([1; 32]));
        self.store(self.user, &token, uses).await.unwrap();
        token
    }

    async fn store(&self, user: UserId, token: &JoinToken, uses: u32) -> Result<(), String> {
        let new = NewJoinToken {
            id: token.id(),
            created_by: user,
            secret_sha256: token.secret_sha256(),
            labels: &labels(),
            uses,
            ttl: HOUR,
        };
        let mut transaction = self.app.begin_as(user).await.unwrap();
        let made = join_tokens::insert(&mut transaction, &new).await;
        made.map_err(|error| format!("{error:?}"))?;
        commit(transaction).await.unwrap();
        Ok(())
    }

    /// A machine with the key of this number; each asks under a new name.
    async fn join(&self, token: &JoinToken, key: u8) -> Redeemed {
        self.join_in(FIRST, token, key).await
    }

    async fn join_in(&self, epoch: Epoch, token: &JoinToken, key: u8) -> Redeemed {
        let name: NodeId = format!("n{key}-{}", uuid::Uuid::new_v4().simple())
            .parse()
            .unwrap();
        let redemption = Redemption {
            token: token.id(),
            secret_sha256: token.secret_sha256(),
            public_key_sha256: Sha256::from_bytes([key; 32]),
            facts: &Facts::new(),
            node: &name,
        };
        let certified = Certified {
            certificate: format!("the certificate of {name}"),
            expires_at: join_tokens::time_of(4_000_000_000).unwrap(),
        };
        redeem(&self.database, epoch, &redemption, &certified)
            .await
            .unwrap()
    }

    async fn uses_left(&mut self, token: &JoinToken) -> String {
        let query = format!(
            "select uses_left from join_token where id = '{}'",
            token.id()
        );
        self.text(&query).await
    }

    async fn drain(&self, name: &str, how: Drain, grace: Option<Duration>) -> bool {
        let mut transaction = self.app.begin_as(self.user).await.unwrap();
        let done = members::drain(&mut transaction, &node(name), how, grace).await;
        commit(transaction).await.unwrap();
        done.unwrap()
    }

    async fn revoke(&self, name: &str) -> bool {
        let mut transaction = self.app.begin_as(self.user).await.unwrap();
        let done = members::revoke(&mut transaction, &node(name)).await;
        commit(transaction).await.unwrap();
        done.unwrap()
    }

    async fn standing(&self, name: &str) -> Standing {
        let standings = members::standings(&self.database).await.unwrap();
        standings.get(&node(name)).copied().unwrap_or_default()
    }
}

#[tokio::test]
async fn token_uses_never_go_below_zero() {
    let mut farm = Farm::start().await;
    farm.become_admin().await;
    let token = farm.token(3).await;
    let farm = std::sync::Arc::new(farm);
    let mut machines = JoinSet::new();
    for key in 0..12 {
        let (farm, token) = (farm.clone(), token.clone());
        machines.spawn(async move { farm.join(&token, key).await });
    }
    let joined = machines.join_all().await;
    let admitted = |joined: &&Redeemed| matches!(joined, Redeemed::Admitted { .. });
    assert_eq!(joined.iter().filter(admitted).count(), 3, "{joined:?}");
    let refused = joined.iter().filter(|joined| **joined == Redeemed::Refused);
    assert_eq!(refused.count(), 9, "{joined:?}");
    let mut farm = std::sync::Arc::into_inner(farm).unwrap();
    assert_eq!(farm.uses_left(&token).await, "0");
    assert_eq!(farm.text("select count(*) from node_member").await, "3");
}

#[tokio::test]
async fn lost_join_answer_costs_one_use() {
    let mut farm = Farm::start().await;
    farm.become_admin().await;
    let token = farm.token(2).await;
    let first = farm.join(&token, 1).await;
    assert!(matches!(&first, Redeemed::Admitted { labels: given, .. } if *given == labels()));
    // Also at the same moment.
    let (second, third) = tokio::join!(farm.join(&token, 1), farm.join(&token, 1));
    assert_eq!((&second, &third), (&first, &first));
    assert_eq!(farm.uses_left(&token).await, "1");
    assert!(matches!(
        farm.join(&token, 2).await,
        Redeemed::Admitted { .. }
    ));
    // The last use is gone, and whoever had one asks again as before.
    assert_eq!(farm.join(&token, 3).await, Redeemed::Refused);
    assert_eq!(farm.join(&token, 1).await, first);
    // The same key under another token is another machine as far as anybody can tell.
    let other = farm.token(1).await;
    assert_ne!(farm.join(&other, 1).await, first);
    // A node that was revoked is not let in again by what it joined with.
    let Redeemed::Admitted { node, .. } = &first else {
        panic!("{first:?}");
    };
    assert!(farm.revoke(node.as_str()).await);
    assert_eq!(farm.join(&token, 1).await, Redeemed::Refused);
}

#[tokio::test]
async fn expired_token_is_refused_like_a_wrong_one() {
    let mut farm = Farm::start().await;
    farm.become_admin().await;
    let unknown = JoinToken::generate(Sha256::from_bytes([1; 32]));
    assert_eq!(farm.join(&unknown, 1).await, Redeemed::Refused);
    // Right in its id, wrong in its secret.
    let token = farm.token(9).await;
    let shown = token.reveal();
    let wrong = format!("{}{}{}", &shown[..36], "0".repeat(64), &shown[100..]);
    let wrong: JoinToken = wrong.parse().unwrap();
    assert_eq!(wrong.id(), token.id());
    assert_eq!(farm.join(&wrong, 1).await, Redeemed::Refused);
    for (change, machine) in [
        ("expires_at = now()", 1),
        ("revoked_at = now()", 2),
        ("uses_left = 0", 3),
    ] {
        let token = farm.token(9).await;
        farm.run(&format!(
            "update join_token set {change} where id = '{}'",
            token.id()
        ))
        .await;
        assert_eq!(
            farm.join(&token, machine).await,
            Redeemed::Refused,
            "{change}"
        );
    }
    assert_eq!(farm.text("select count(*) from node_member").await, "0");
    assert_eq!(farm.uses_left(&token).await, "9");
}

#[tokio::test]
async fn a_leader_of_an_earlier_term_admits_nobody() {
    let mut farm = Farm::start().await;
    farm.become_admin().await;
    let token = farm.token(1).await;
    farm.next_term().await;
    assert_eq!(farm.join_in(FIRST, &token, 1).await, Redeemed::Fenced);
    assert_eq!(farm.uses_left(&token).await, "1");
    let joined = farm.join_in(SECOND, &token, 1).await;
    assert!(matches!(joined, Redeemed::Admitted { .. }));
}

#[tokio::test]
async fn only_an_administrator_makes_tokens_and_moves_nodes() {
    let mut farm = Farm::start().await;
    farm.run("insert into node (id, generation) values ('n1', 1)")
        .await;
    let token = JoinToken::generate(Sha256::from_bytes([1; 32]));
    let refused = farm.store(farm.user, &token, 1).await.unwrap_err();
    assert!(refused.contains("row-level security"), "{refused}");
    assert!(!farm.drain("n1", Drain::Now, None).await);
    assert!(!farm.revoke("n1").await);
    farm.become_admin().await;
    farm.store(farm.user, &token, 1).await.unwrap();
    assert!(farm.drain("n1", Drain::Now, None).await);
    // Nobody who is none sees what is there.
    let bob = UserId::generate();
    farm.sign_up(bob).await;
    let mut transaction = farm.app.begin_as(bob).await.unwrap();
    assert!(
        join_tokens::list(&mut transaction, 9)
            .await
            .unwrap()
            .is_empty()
    );
    assert!(members::list(&mut transaction, 9).await.unwrap().is_empty());
    assert!(
        !join_tokens::revoke(&mut transaction, token.id())
            .await
            .unwrap()
    );
}

#[tokio::test]
async fn any_administrator_ends_a_token_and_makes_one_in_no_other_name() {
    let mut farm = Farm::start().await;
    farm.become_admin().await;
    let token = farm.token(2).await;
    let bob = UserId::generate();
    farm.sign_up(bob).await;
    farm.make_admin(bob).await;

    let mut transaction = farm.app.begin_as(bob).await.unwrap();
    let revoked = join_tokens::revoke(&mut transaction, token.id()).await;
    assert!(revoked.unwrap());
    commit(transaction).await.unwrap();
    assert_eq!(farm.join(&token, 1).await, Redeemed::Refused);

    for name in [format!("'{}'", farm.user), "null".to_owned()] {
        let mut transaction = farm.app.begin_as(bob).await.unwrap();
        let made = sqlx::query(AssertSqlSafe(format!(
            "insert into join_token (id, created_by, secret_hash, labels, uses, uses_left, expires_at)
             values (gen_random_uuid(), {name}, sha256('s'), '{{}}', 1, 1, now() + interval '1 hour')"
        )))
        .execute(&mut *transaction)
        .await;
        let refused = made.unwrap_err().to_string();
        assert!(refused.contains("row-level security"), "{name}: {refused}");
    }
}

#[tokio::test]
async fn a_token_is_forgotten_a_day_after_its_end_and_its_nodes_stay() {
    let mut farm = Farm::start().await;
    farm.become_admin().await;
    for ago in ["25 hours", "26 hours", "23 hours"] {
        let token = farm.token(9).await;
        farm.join(&token, 1).await;
        farm.run(&format!(
            "update join_token set expires_at = now() - interval '{ago}' where id = '{}'",
            token.id()
        ))
        .await;
    }

    let refused = join_tokens::forget_expired(&farm.app, 9).await.unwrap_err();
    assert!(format!("{refused:?}").contains("permission denied"));
    for (max, forgotten) in [(1, 1), (9, 1), (9, 0)] {
        let done = join_tokens::forget_expired(&farm.database, max).await;
        assert_eq!(done.unwrap(), forgotten);
    }
    for (table, left) in [
        ("join_token", "1"),
        ("node_certificate", "1"),
        ("node_member", "3"),
    ] {
        let count = format!("select count(*) from {table}");
        assert_eq!(farm.text(&count).await, left, "{table}");
    }
}

#[tokio::test]
async fn a_node_is_forgotten_when_it_can_come_back_no_more() {
    let mut farm = Farm::start().await;
    farm.run(
        "insert into node_member (node_id, joined_at, certificate_expires_at, drain, revoked_at) values
             ('gone', now(), now() - interval '31 days', 'off', null),
             ('gone-and-revoked', now(), now() - interval '32 days', 'off', now()),
             ('lately', now(), now() - interval '29 days', 'off', null),
             ('drains', now(), now() - interval '31 days', 'lazy', null),
             ('issued-and-renewed', null, now() - interval '31 days', 'off', now()),
             ('issued', null, null, 'off', now())",
    )
    .await;
    let refused = members::forget_ended(&farm.app, 9).await.unwrap_err();
    assert!(format!("{refused:?}").contains("permission denied"));
    for (max, forgotten) in [(1, 1), (9, 1), (9, 0)] {
        let done = members::forget_ended(&farm.database, max).await;
        assert_eq!(done.unwrap(), forgotten);
    }
    let left = "select string_agg(node_id, ' ' order by node_id) from node_member";
    let expected = "drains issued issued-and-renewed lately";
    assert_eq!(farm.text(left).await, expected);
}

#[tokio::test]
async fn what_is_wanted_of_a_node_outlives_its_leader() {
    let mut farm = Farm::start().await;
    farm.become_admin().await;
    farm.run("insert into node (id, generation) values ('n1', 1), ('n2', 1)")
        .await;
    let standing = |drain, is_revoked| Standing { drain, is_revoked };
    assert!(!farm.drain("n9", Drain::Lazy, None).await, "a typing error");
    assert!(farm.drain("n1", Drain::Lazy, Some(HOUR)).await);
    farm.next_term().await;
    assert_eq!(farm.standing("n1").await, standing(Drain::Lazy, false));
    assert_eq!(farm.standing("n2").await, Standing::default());
    // The grace is over by the database's clock.
    farm.run("update node_member set drain_now_at = now()")
        .await;
    assert_eq!(farm.standing("n1").await, standing(Drain::Now, false));
    assert!(farm.drain("n1", Drain::Off, None).await);
    assert_eq!(farm.standing("n1").await, Standing::default());

    assert!(farm.revoke("n2").await);
    assert!(farm.revoke("n2").await, "again is as once");
    assert_eq!(farm.standing("n2").await, standing(Drain::Off, true));
    assert!(
        !farm.drain("n2", Drain::Off, None).await,
        "it does not come back"
    );
    let until = join_tokens::time_of(4_000_000_000).unwrap();
    let renewed = members::renew(&farm.database, SECOND, &node("n2"), until).await;
    assert_eq!(renewed.unwrap(), Renewal::Revoked);
    let renewed = members::renew(&farm.database, SECOND, &node("n1"), until).await;
    assert_eq!(renewed.unwrap(), Renewal::Written);
    // Of a node that did not join, nobody here knows all certificates.
    farm.run("update node_member set certificate_expires_at = now() where node_id = 'n2'")
        .await;
    assert_eq!(farm.standing("n2").await, standing(Drain::Off, true));
    // Whose certificates have all ended is kept out by that, by any clock a day later.
    farm.run("update node_member set joined_at = now() where node_id = 'n2'")
        .await;
    assert_eq!(farm.standing("n2").await, standing(Drain::Off, true));
    farm.run("update node_member set certificate_expires_at = now() - interval '1 day' where node_id = 'n2'")
        .await;
    assert_eq!(farm.standing("n2").await, Standing::default());
}

/// What a refresh token of long ago could still say is nothing.
#[tokio::test]
async fn sign_ins_that_ended_long_ago_are_forgotten() {
    let mut farm = Farm::start().await;
    for (n, ended) in [(1, "31 days"), (2, "29 days"), (3, "-1 days")] {
        farm.run(&format!(
            "insert into sign_in (id, user_id, family_hash, secret_hash, expires_at)
             values (gen_random_uuid(), '{}', sha256('{n}'), sha256('s'), now() - interval '{ended}')",
            farm.user
        ))
        .await;
    }
    assert!(accounts::forget_sign_ins(&farm.app, 9).await.is_err());
    let forgotten = accounts::forget_sign_ins(&farm.database, 9).await;
    assert_eq!(forgotten.unwrap(), 1);
    assert_eq!(farm.text("select count(*) from sign_in").await, "2");
}
