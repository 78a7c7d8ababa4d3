//! What only the database's owner sees: for assertions across tenants, and for what users cannot do to themselves.

use sqlx::{Connection, PgConnection};

use super::TestFarm;

impl TestFarm {
    /// One value, as the owner, who sees every row.
    pub(crate) async fn one<T>(&self, query: &'static str, job: &str) -> T
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
    {
        let mut owner = self.owner().await;
        let value = sqlx::query_scalar(query)
            .bind(job)
            .fetch_one(&mut owner)
            .await;
        owner.close().await.unwrap();
        value.unwrap()
    }

    /// What a user has to pay for.
    pub(crate) async fn set_tier(&self, email: &str, tier: &str) {
        let mut owner = self.owner().await;
        let changed = sqlx::query("update account set tier = $2 where email = $1")
            .bind(email)
            .bind(tier)
            .execute(&mut owner)
            .await
            .unwrap();
        assert_eq!(changed.rows_affected(), 1);
        owner.close().await.unwrap();
    }

    /// The job has one clip, one event that says so, and every event under its own number.
    pub(crate) async fn assert_delivered_once(&self, job: &str) {
        let clips: i64 = self
            .one("select count(*) from artefact where job_id = $1::uuid", job)
            .await;
        let ends: i64 = self
            .one(
                "select count(*) from job_event where job_id = $1::uuid and kind = 'done'",
                job,
            )
            .await;
        let holes: i64 = self
            .one(
                "select max(seq) - count(*) from job_event where job_id = $1::uuid",
                job,
            )
            .await;
        assert_eq!((clips, ends, holes), (1, 1, 0));
    }

    /// The node that runs the job's newest attempt.
    pub(crate) async fn node_of(&self, job: &str) -> String {
        self.one("select node_id from job_state where job_id = $1::uuid", job)
            .await
    }

    async fn owner(&self) -> PgConnection {
        PgConnection::connect(&self.farm().parts().database().owner)
            .await
            .unwrap()
    }
}
