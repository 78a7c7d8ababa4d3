-- a batch holds the lease's row, which its leader renews every few seconds: it must not wait for whoever stopped in the middle of a
-- transaction with the row of a job, a stream or a balance. the leader commits the changes one by one then, and this one later.
alter function journal_commit(int, jsonb) set lock_timeout = '500ms';
