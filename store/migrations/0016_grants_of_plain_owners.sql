-- an owner of the database that is no superuser could not take the functions of 0006 from everybody, nor give them to the api: it did
-- so after it had ceased to act as their owner, which PostgreSQL answers with a warning. where a superuser migrates, nothing changes here.

grant flowai_auth, flowai_ledger to current_user;
revoke all on all functions in schema public from public;
grant execute on function
    auth_sign_up(uuid, text, text, bigint), auth_by_email(text), auth_open_sign_in(uuid, uuid, bytea, bytea, timestamptz),
    auth_rotate(bytea, bytea, bytea, interval, timestamptz), auth_end_sign_ins(uuid, uuid), auth_sign_in_is_open(uuid), auth_by_api_key(bytea)
    to flowai_app;
grant execute on function auth_make_admin(text) to current_user;
revoke flowai_auth, flowai_ledger from current_user;
