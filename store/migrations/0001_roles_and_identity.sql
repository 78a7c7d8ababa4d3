-- who connects, and how a transaction says on whose behalf it acts.
-- the roles are made without passwords: whoever starts the farm sets them before its first login.

do $$
begin
    if not exists (select from pg_roles where rolname = 'flowai_app') then
        create role flowai_app login nosuperuser nocreatedb nocreaterole nobypassrls;
    end if;
    if not exists (select from pg_roles where rolname = 'flowai_coordinator') then
        create role flowai_coordinator login nosuperuser nocreatedb nocreaterole nobypassrls;
    end if;
    if not exists (select from pg_roles where rolname = 'flowai_auth') then
        create role flowai_auth nologin nosuperuser nocreatedb nocreaterole nobypassrls;
    end if;
end
$$;

revoke all on schema public from public;
grant usage on schema public to flowai_app, flowai_coordinator, flowai_auth;

-- after a transaction that set it, the setting reads as an empty string and not as null. its body is bound to its operators
-- here, so it needs no search path of its own, which would keep it from being inlined into the policies that call it.
create function app_user() returns uuid
    language sql stable
    return nullif(current_setting('app.user_id', true), '')::uuid;

revoke all on function app_user() from public;
grant execute on function app_user() to flowai_app, flowai_coordinator, flowai_auth;
