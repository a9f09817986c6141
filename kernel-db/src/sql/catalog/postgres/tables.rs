//! The columns of the tables of `pg_catalog`, and the rows that are the same on every cluster.

use super::super::system::text;
use super::{BTREE, DATABASE, DEFAULT_COLLATION, HEAP, OWNER, PG_CATALOG, PLPGSQL, SQL};
use crate::sql::Value;

/// Name and columns, `name:type`, of each.
pub(in crate::sql::catalog) const TABLES: &[(&str, &str)] = &[
    (
        "pg_class",
        "oid:int8 relname:text relnamespace:int8 reltype:int8 reloftype:int8 relowner:int8 relam:int8 relfilenode:int8 \
         reltablespace:int8 relpages:int4 reltuples:float8 relallvisible:int4 reltoastrelid:int8 relhasindex:bool \
         relisshared:bool relpersistence:text relkind:text relnatts:int2 relchecks:int2 relhasrules:bool \
         relhastriggers:bool relhassubclass:bool relrowsecurity:bool relforcerowsecurity:bool relispopulated:bool \
         relreplident:text relispartition:bool relrewrite:int8 relacl:text[] reloptions:text[] relpartbound:text",
    ),
    (
        "pg_namespace",
        "oid:int8 nspname:text nspowner:int8 nspacl:text[]",
    ),
    (
        "pg_attribute",
        "attrelid:int8 attname:text atttypid:int8 attstattarget:int4 attlen:int2 attnum:int2 attndims:int4 \
         atttypmod:int4 attbyval:bool attstorage:text attalign:text attcompression:text attnotnull:bool atthasdef:bool \
         atthasmissing:bool attidentity:text attgenerated:text attisdropped:bool attislocal:bool attinhcount:int4 \
         attcollation:int8 attacl:text[] attoptions:text[]",
    ),
    ("pg_attrdef", "oid:int8 adrelid:int8 adnum:int2 adbin:text"),
    (
        "pg_type",
        "oid:int8 typname:text typnamespace:int8 typowner:int8 typlen:int2 typbyval:bool typtype:text typcategory:text \
         typispreferred:bool typisdefined:bool typdelim:text typrelid:int8 typelem:int8 typarray:int8 typnotnull:bool \
         typbasetype:int8 typtypmod:int4 typndims:int4 typcollation:int8 typdefault:text",
    ),
    (
        "pg_index",
        "indexrelid:int8 indrelid:int8 indnatts:int2 indnkeyatts:int2 indisunique:bool indnullsnotdistinct:bool \
         indisprimary:bool indisexclusion:bool indimmediate:bool indisclustered:bool indisvalid:bool indcheckxmin:bool \
         indisready:bool indislive:bool indisreplident:bool indkey:int2[] indoption:int2[] indexprs:text indpred:text",
    ),
    (
        "pg_constraint",
        "oid:int8 conname:text connamespace:int8 contype:text condeferrable:bool condeferred:bool convalidated:bool \
         conrelid:int8 contypid:int8 conindid:int8 conparentid:int8 confrelid:int8 confupdtype:text confdeltype:text \
         confmatchtype:text conislocal:bool coninhcount:int4 connoinherit:bool conkey:int2[] confkey:int2[] conbin:text",
    ),
    (
        "pg_proc",
        "oid:int8 proname:text pronamespace:int8 proowner:int8 prolang:int8 procost:float8 prorows:float8 prokind:text \
         prosecdef:bool proleakproof:bool proisstrict:bool proretset:bool provolatile:text proparallel:text \
         pronargs:int2 pronargdefaults:int2 prorettype:int8 proargtypes:int8[] proargnames:text[] prosrc:text \
         probin:text proacl:text[]",
    ),
    (
        "pg_language",
        "oid:int8 lanname:text lanowner:int8 lanispl:bool",
    ),
    (
        "pg_sequence",
        "seqrelid:int8 seqtypid:int8 seqstart:int8 seqincrement:int8 seqmax:int8 seqmin:int8 seqcache:int8 seqcycle:bool",
    ),
    ("pg_am", "oid:int8 amname:text amtype:text"),
    (
        "pg_database",
        "oid:int8 datname:text datdba:int8 encoding:int4 datlocprovider:text datistemplate:bool datallowconn:bool \
         datconnlimit:int4 dattablespace:int8 datcollate:text datctype:text daticulocale:text datcollversion:text \
         datacl:text[]",
    ),
    (
        "pg_roles",
        "rolname:text rolsuper:bool rolinherit:bool rolcreaterole:bool rolcreatedb:bool rolcanlogin:bool \
         rolreplication:bool rolconnlimit:int4 rolpassword:text rolvaliduntil:timestamptz rolbypassrls:bool \
         rolconfig:text[] oid:int8",
    ),
    (
        "pg_user",
        "usename:text usesysid:int8 usecreatedb:bool usesuper:bool userepl:bool usebypassrls:bool passwd:text \
         valuntil:timestamptz useconfig:text[]",
    ),
    (
        "pg_collation",
        "oid:int8 collname:text collnamespace:int8 collprovider:text collencoding:int4",
    ),
    (
        "pg_extension",
        "oid:int8 extname:text extowner:int8 extnamespace:int8 extversion:text",
    ),
    (
        "pg_tablespace",
        "oid:int8 spcname:text spcowner:int8 spcacl:text[] spcoptions:text[]",
    ),
    // Nothing of these exists: always empty.
    (
        "pg_auth_members",
        "roleid:int8 member:int8 grantor:int8 admin_option:bool",
    ),
    (
        "pg_description",
        "objoid:int8 classoid:int8 objsubid:int4 description:text",
    ),
    (
        "pg_shdescription",
        "objoid:int8 classoid:int8 description:text",
    ),
    (
        "pg_depend",
        "classid:int8 objid:int8 objsubid:int4 refclassid:int8 refobjid:int8 refobjsubid:int4 deptype:text",
    ),
    (
        "pg_inherits",
        "inhrelid:int8 inhparent:int8 inhseqno:int4 inhdetachpending:bool",
    ),
    (
        "pg_policy",
        "oid:int8 polname:text polrelid:int8 polcmd:text polpermissive:bool polroles:int8[] polqual:text \
         polwithcheck:text",
    ),
    (
        "pg_statistic_ext",
        "oid:int8 stxrelid:int8 stxname:text stxnamespace:int8 stxowner:int8 stxstattarget:int4 stxkeys:int2[] \
         stxkind:text[]",
    ),
    (
        "pg_publication",
        "oid:int8 pubname:text pubowner:int8 puballtables:bool pubinsert:bool pubupdate:bool pubdelete:bool \
         pubtruncate:bool pubviaroot:bool",
    ),
    (
        "pg_publication_namespace",
        "oid:int8 pnpubid:int8 pnnspid:int8",
    ),
    (
        "pg_publication_rel",
        "oid:int8 prpubid:int8 prrelid:int8 prqual:text prattrs:int2[]",
    ),
    (
        "pg_trigger",
        "oid:int8 tgrelid:int8 tgparentid:int8 tgname:text tgfoid:int8 tgtype:int2 tgenabled:text tgisinternal:bool",
    ),
    (
        "pg_rewrite",
        "oid:int8 rulename:text ev_class:int8 ev_type:text ev_enabled:text is_instead:bool",
    ),
    (
        "pg_foreign_table",
        "ftrelid:int8 ftserver:int8 ftoptions:text[]",
    ),
    (
        "pg_foreign_server",
        "oid:int8 srvname:text srvowner:int8 srvfdw:int8",
    ),
    (
        "pg_enum",
        "oid:int8 enumtypid:int8 enumsortorder:float8 enumlabel:text",
    ),
    (
        "pg_range",
        "rngtypid:int8 rngsubtype:int8 rngmultitypid:int8",
    ),
];

/// Tables that say the same of every cluster; empty ones too.
pub(super) fn fixed(name: &str) -> Vec<Vec<(&'static str, Value)>> {
    let int = |n: i64| Value::Int8(n);
    let yes = || Value::Bool(true);
    match name {
        "pg_am" => vec![
            vec![
                ("oid", int(HEAP)),
                ("amname", text("heap")),
                ("amtype", text("t")),
            ],
            vec![
                ("oid", int(BTREE)),
                ("amname", text("btree")),
                ("amtype", text("i")),
            ],
        ],
        "pg_language" => vec![
            vec![
                ("oid", int(SQL)),
                ("lanname", text("sql")),
                ("lanowner", int(OWNER)),
            ],
            vec![
                ("oid", int(PLPGSQL)),
                ("lanname", text("plpgsql")),
                ("lanowner", int(OWNER)),
                ("lanispl", yes()),
            ],
        ],
        "pg_database" => vec![vec![
            ("oid", int(DATABASE)),
            ("datname", text("dbos")),
            ("datdba", int(OWNER)),
            ("encoding", Value::Int4(6)),
            ("datlocprovider", text("c")),
            ("datallowconn", yes()),
            ("datconnlimit", Value::Int4(-1)),
            ("datcollate", text("C")),
            ("datctype", text("C")),
        ]],
        "pg_collation" => vec![
            vec![
                ("oid", int(DEFAULT_COLLATION)),
                ("collname", text("default")),
                ("collnamespace", int(PG_CATALOG)),
            ],
            vec![
                ("oid", int(950)),
                ("collname", text("C")),
                ("collnamespace", int(PG_CATALOG)),
            ],
        ],
        "pg_extension" => vec![vec![
            ("oid", int(PLPGSQL + 1)),
            ("extname", text("plpgsql")),
            ("extowner", int(OWNER)),
            ("extnamespace", int(PG_CATALOG)),
            ("extversion", text("1.0")),
        ]],
        "pg_tablespace" => vec![vec![
            ("oid", int(1663)),
            ("spcname", text("pg_default")),
            ("spcowner", int(OWNER)),
        ]],
        other => roles(other),
    }
}

/// The one role.
fn roles(name: &str) -> Vec<Vec<(&'static str, Value)>> {
    let int = |n: i64| Value::Int8(n);
    let yes = || Value::Bool(true);
    match name {
        "pg_roles" => vec![vec![
            ("rolname", text("dbos")),
            ("rolsuper", yes()),
            ("rolinherit", yes()),
            ("rolcreaterole", yes()),
            ("rolcreatedb", yes()),
            ("rolcanlogin", yes()),
            ("rolreplication", yes()),
            ("rolconnlimit", Value::Int4(-1)),
            ("rolpassword", text("********")),
            ("rolbypassrls", yes()),
            ("oid", int(OWNER)),
        ]],
        "pg_user" => vec![vec![
            ("usename", text("dbos")),
            ("usesysid", int(OWNER)),
            ("usecreatedb", yes()),
            ("usesuper", yes()),
            ("userepl", yes()),
            ("usebypassrls", yes()),
            ("passwd", text("********")),
        ]],
        _ => Vec::new(),
    }
}
