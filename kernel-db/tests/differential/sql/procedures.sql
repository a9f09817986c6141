-- Functions in sql and plpgsql.
CREATE TABLE acc (k int4 PRIMARY KEY, v int4, s text);
INSERT INTO acc SELECT g, g * 10, 'n' || g FROM generate_series(1, 10) g;
CREATE FUNCTION add(a int4, b int4) RETURNS int4 LANGUAGE sql AS $$ SELECT a + b $$;
SELECT add(1, 2), add(NULL, 1), add(add(1, 2), 3);
SELECT add(1);
SELECT add('x', 1);
SELECT add(1.5, 1);
SELECT add(1::int8, 1);
SELECT add(2::int2, 1);
CREATE FUNCTION add(a int4, b int4) RETURNS int4 LANGUAGE sql AS $$ SELECT 0 $$;
CREATE OR REPLACE FUNCTION add(a int4, b int4) RETURNS int4 LANGUAGE sql AS $$ SELECT $1 + $2 + 1 $$;
SELECT add(1, 2);
CREATE FUNCTION get_v(in_k int4) RETURNS int4 LANGUAGE sql AS $$ SELECT v FROM acc WHERE k = in_k $$;
SELECT get_v(3), get_v(99);
CREATE FUNCTION rows_from(in_k int4) RETURNS TABLE (k int4, v int4) LANGUAGE sql AS $$ SELECT a.k, a.v FROM acc a WHERE a.k >= in_k ORDER BY a.k $$;
SELECT * FROM rows_from(8);
SELECT sum(v) FROM rows_from(5) WHERE k < 8;
CREATE FUNCTION bad_sql() RETURNS int4 LANGUAGE sql AS $$ SELECT nosuch $$;
CREATE FUNCTION bad_type() RETURNS int4 LANGUAGE sql AS $$ SELECT 'x'::text $$;
CREATE FUNCTION two_statements(in_k int4) RETURNS int4 LANGUAGE sql AS $$ UPDATE acc SET v = v + 1 WHERE k = in_k; SELECT v FROM acc WHERE k = in_k $$;
SELECT two_statements(1);
SELECT two_statements(1);
CREATE FUNCTION nothing() RETURNS void LANGUAGE plpgsql AS $$ BEGIN END $$;
SELECT nothing();
CREATE FUNCTION control(n int4) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    r text := '';
BEGIN
    IF n < 0 THEN r := 'negative'; ELSIF n = 0 THEN r := 'zero'; ELSEIF n < 10 THEN r := 'small'; ELSE r := 'big'; END IF;
    CASE WHEN n % 2 = 0 THEN r := r || ' even'; ELSE r := r || ' odd'; END CASE;
    CASE n WHEN 1, 2 THEN r := r || ' few'; WHEN 3 THEN r := r || ' three'; ELSE NULL; END CASE;
    RETURN r;
END $$;
SELECT control(-3), control(0), control(1), control(2), control(3), control(77), control(NULL);
CREATE FUNCTION no_else(n int4) RETURNS int4 LANGUAGE plpgsql AS $$ BEGIN CASE n WHEN 1 THEN RETURN 1; END CASE; RETURN 0; END $$;
SELECT no_else(1);
SELECT no_else(2);
CREATE FUNCTION loops(n int4) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    r text := '';
    i int4 := 0;
BEGIN
    LOOP i := i + 1; EXIT WHEN i > n; CONTINUE WHEN i % 2 = 0; r := r || i; END LOOP;
    r := r || '|';
    WHILE i > 0 LOOP i := i - 2; r := r || i; END LOOP;
    r := r || '|';
    FOR j IN 1..n LOOP r := r || j; END LOOP;
    FOR j IN REVERSE n..1 BY 2 LOOP r := r || j; END LOOP;
    FOR j IN 5..4 LOOP r := r || 'never'; END LOOP;
    r := r || FOUND;
    <<outer>>
    FOR a IN 1..3 LOOP
        FOR b IN 1..3 LOOP
            CONTINUE outer WHEN b = 2 AND a = 1;
            EXIT outer WHEN a = 3;
            r := r || '(' || a || b || ')';
        END LOOP;
    END LOOP outer;
    <<blk>>
    BEGIN r := r || 'in'; EXIT blk; r := r || 'never'; END;
    RETURN r;
END $$;
SELECT loops(5), loops(0);
CREATE FUNCTION by_zero() RETURNS void LANGUAGE plpgsql AS $$ BEGIN FOR i IN 1..2 BY 0 LOOP NULL; END LOOP; END $$;
SELECT by_zero();
CREATE FUNCTION null_bound() RETURNS void LANGUAGE plpgsql AS $$ BEGIN FOR i IN 1..NULL LOOP NULL; END LOOP; END $$;
SELECT null_bound();
CREATE FUNCTION over_query(lim int4) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    r record;
    a int4;
    b text;
    out text := '';
BEGIN
    FOR r IN SELECT k, s FROM acc WHERE k <= lim ORDER BY k LOOP out := out || r.k || r.s || ' '; END LOOP;
    out := out || FOUND;
    FOR a, b IN SELECT k, s FROM acc WHERE k > 8 ORDER BY k LOOP out := out || a || b; END LOOP;
    RETURN out;
END $$;
SELECT over_query(2), over_query(0);
CREATE FUNCTION into_tests(in_k int4) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    a int4;
    b text;
    r record;
    row acc%ROWTYPE;
    t acc.s%TYPE;
BEGIN
    SELECT v, s INTO a, b FROM acc WHERE k = in_k;
    IF NOT FOUND THEN RETURN 'none ' || COALESCE(a::text, 'null'); END IF;
    SELECT * INTO r FROM acc WHERE k = in_k;
    SELECT * INTO row FROM acc WHERE k = in_k;
    SELECT s FROM acc INTO t WHERE k = in_k;
    RETURN a || b || r.k || r.v || r.s || row.k || row.v || row.s || t;
END $$;
SELECT into_tests(2), into_tests(99);
CREATE FUNCTION strict_test(lo int4) RETURNS int4 LANGUAGE plpgsql AS $$ DECLARE x int4; BEGIN SELECT v INTO STRICT x FROM acc WHERE k >= lo ORDER BY k; RETURN x; END $$;
SELECT strict_test(10);
SELECT strict_test(9);
SELECT strict_test(11);
CREATE FUNCTION into_many() RETURNS int4 LANGUAGE plpgsql AS $$ DECLARE x int4; BEGIN SELECT v INTO x FROM acc ORDER BY k; RETURN x; END $$;
SELECT into_many();
CREATE FUNCTION dml(in_k int4) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    n int8;
    x int4;
    y text;
    out text := '';
BEGIN
    INSERT INTO acc VALUES (in_k, 1, 'new') RETURNING v + 1, s INTO x, y;
    out := out || x || y || FOUND;
    UPDATE acc SET v = v + 1 WHERE k >= in_k;
    GET DIAGNOSTICS n = ROW_COUNT;
    out := out || n;
    UPDATE acc SET v = 0 WHERE k = -1;
    out := out || FOUND;
    UPDATE acc SET v = 0 WHERE k = in_k RETURNING v INTO x;
    DELETE FROM acc WHERE k = in_k RETURNING k INTO x;
    out := out || x;
    PERFORM 1 FROM acc WHERE k = in_k;
    out := out || FOUND;
    PERFORM k FROM acc;
    GET DIAGNOSTICS n = ROW_COUNT;
    RETURN out || n;
END $$;
SELECT dml(100);
SELECT dml(1);
SELECT count(*) FROM acc;
CREATE FUNCTION too_many() RETURNS int4 LANGUAGE plpgsql AS $$ DECLARE x int4; BEGIN UPDATE acc SET v = v RETURNING k INTO x; RETURN x; END $$;
SELECT too_many();
CREATE FUNCTION catching(what text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    m text;
    st text;
    h text;
BEGIN
    INSERT INTO acc VALUES (500, 1, 'before');
    BEGIN
        INSERT INTO acc VALUES (501, 1, 'inside');
        IF what = 'zero' THEN PERFORM 1 / 0; END IF;
        IF what = 'dup' THEN INSERT INTO acc VALUES (1, 1, 'dup'); END IF;
        IF what = 'raise' THEN RAISE EXCEPTION 'my % error %%', 7 USING ERRCODE = 'ABC12', HINT = 'hint', DETAIL = 'detail'; END IF;
        IF what = 'text' THEN PERFORM 'x'::int4; END IF;
        IF what = 'name' THEN RAISE unique_violation USING MESSAGE = 'mine'; END IF;
        IF what = 'uncaught' THEN RAISE EXCEPTION USING ERRCODE = 'P0004'; END IF;
    EXCEPTION
        WHEN division_by_zero THEN RETURN 'zero ' || SQLSTATE || ' ' || SQLERRM;
        WHEN unique_violation OR SQLSTATE 'ZZZZZ' THEN RETURN 'dup ' || SQLSTATE || (SELECT count(*) FROM acc WHERE k >= 500);
        WHEN data_exception THEN RETURN 'data ' || SQLSTATE;
        WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS m = MESSAGE_TEXT, st = RETURNED_SQLSTATE, h = PG_EXCEPTION_HINT;
            RETURN 'others ' || m || st || h;
    END;
    DELETE FROM acc WHERE k >= 500;
    RETURN 'fine';
END $$;
SELECT catching('no');
SELECT catching('zero');
SELECT catching('dup');
SELECT k FROM acc WHERE k >= 500;
DELETE FROM acc WHERE k >= 500;
SELECT catching('dup');
DELETE FROM acc WHERE k >= 500;
SELECT catching('raise');
DELETE FROM acc WHERE k >= 500;
SELECT catching('text');
DELETE FROM acc WHERE k >= 500;
SELECT catching('name');
DELETE FROM acc WHERE k >= 500;
SELECT catching('uncaught');
SELECT count(*) FROM acc;
CREATE FUNCTION again() RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM 1 / 0; EXCEPTION WHEN OTHERS THEN RAISE; END $$;
SELECT again();
CREATE FUNCTION raise_state() RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE SQLSTATE '22012'; END $$;
SELECT raise_state();
CREATE FUNCTION raise_default() RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'x'; END $$;
SELECT raise_default();
CREATE FUNCTION raise_notice() RETURNS int4 LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE 'n %', 1; RAISE DEBUG 'd'; RAISE WARNING 'w'; RETURN 1; END $$;
SELECT raise_notice();
CREATE FUNCTION asserts(b bool) RETURNS int4 LANGUAGE plpgsql AS $$ BEGIN ASSERT b, 'no'; RETURN 1; END $$;
SELECT asserts(true);
SELECT asserts(false);
SELECT asserts(NULL);
CREATE FUNCTION no_return(n int4) RETURNS int4 LANGUAGE plpgsql AS $$ BEGIN IF n > 0 THEN RETURN n; END IF; END $$;
SELECT no_return(1);
SELECT no_return(0);
CREATE FUNCTION outs(a int4, OUT b int4, OUT c text) LANGUAGE plpgsql AS $$ BEGIN b := a + 1; c := 'c' || a; END $$;
SELECT * FROM outs(1);
SELECT b FROM outs(2);
CREATE FUNCTION one_out(a int4, OUT b int4) LANGUAGE plpgsql AS $$ BEGIN b := a * 2; END $$;
SELECT one_out(4);
SELECT * FROM one_out(4);
CREATE FUNCTION in_out(INOUT a int4) LANGUAGE plpgsql AS $$ BEGIN a := a + 1; END $$;
SELECT in_out(4);
CREATE FUNCTION series(n int4) RETURNS SETOF int4 LANGUAGE plpgsql AS $$ BEGIN FOR i IN 1..n LOOP RETURN NEXT i * i; END LOOP; RETURN; END $$;
SELECT * FROM series(4);
SELECT sum(series) FROM series(4);
SELECT s + 1 FROM series(3) s ORDER BY s DESC;
CREATE FUNCTION tab(n int4) RETURNS TABLE (x int4, y text) LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY SELECT k, s FROM acc WHERE k <= n ORDER BY k;
    IF NOT FOUND THEN x := -1; y := 'none'; RETURN NEXT; END IF;
    x := 0; y := NULL;
    RETURN NEXT;
END $$;
SELECT * FROM tab(2);
SELECT x FROM tab(0) WHERE y IS NOT NULL;
SELECT a.v, t.y FROM tab(3) t JOIN acc a ON a.k = t.x ORDER BY a.k;
CREATE FUNCTION tab_mismatch() RETURNS TABLE (x int8) LANGUAGE plpgsql AS $$ BEGIN RETURN QUERY SELECT k FROM acc; END $$;
SELECT * FROM tab_mismatch();
CREATE FUNCTION setof_acc(lo int4) RETURNS SETOF acc LANGUAGE plpgsql AS $$ DECLARE r acc%ROWTYPE; BEGIN FOR r IN SELECT * FROM acc WHERE k >= lo ORDER BY k LOOP RETURN NEXT r; END LOOP; END $$;
SELECT k, s FROM setof_acc(9);
CREATE FUNCTION casts() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    a int4 := '5';
    b text := 7;
    c float8 := 1;
    d int4 := 2.5;
    e varchar(3) := 'abc';
    f bool := 'yes';
    g CONSTANT int4 := 3;
BEGIN
    a := '12'::text;
    RETURN a || b || c || d || e || f || g;
END $$;
SELECT casts();
CREATE FUNCTION too_long() RETURNS void LANGUAGE plpgsql AS $$ DECLARE e varchar(3); BEGIN e := 'abcd'; END $$;
SELECT too_long();
CREATE FUNCTION not_null_var() RETURNS void LANGUAGE plpgsql AS $$ DECLARE e int4 NOT NULL := 1; BEGIN e := NULL; END $$;
SELECT not_null_var();
CREATE FUNCTION bad_cast() RETURNS void LANGUAGE plpgsql AS $$ DECLARE e int4; BEGIN e := 'abc'; END $$;
SELECT bad_cast();
CREATE FUNCTION overflow_var() RETURNS void LANGUAGE plpgsql AS $$ DECLARE e int2; BEGIN e := 100000; END $$;
SELECT overflow_var();
CREATE FUNCTION shadow(x int4) RETURNS text LANGUAGE plpgsql AS $$
<<o>>
DECLARE
    y int4 := 1;
BEGIN
    DECLARE
        y int4 := 2;
        x int4 := 3;
    BEGIN
        RETURN x || ' ' || y || ' ' || o.y || ' ' || shadow.x;
    END;
END $$;
SELECT shadow(9);
CREATE FUNCTION ambiguous(k int4) RETURNS int4 LANGUAGE plpgsql AS $$ BEGIN RETURN (SELECT v FROM acc WHERE k = k); END $$;
SELECT ambiguous(1);
CREATE FUNCTION qualified(k int4) RETURNS int4 LANGUAGE plpgsql AS $$ BEGIN RETURN (SELECT v FROM acc WHERE acc.k = qualified.k); END $$;
SELECT qualified(4);
CREATE FUNCTION positional(int4, int4) RETURNS int4 LANGUAGE plpgsql AS $$ DECLARE a ALIAS FOR $1; BEGIN RETURN a * 10 + $2; END $$;
SELECT positional(1, 2);
CREATE FUNCTION fact(n int4) RETURNS int8 LANGUAGE plpgsql AS $$ BEGIN IF n <= 1 THEN RETURN 1; END IF; RETURN n * fact(n - 1); END $$;
SELECT fact(10);
CREATE FUNCTION nested(a int4) RETURNS int4 LANGUAGE plpgsql AS $$ BEGIN PERFORM two_statements(a); RETURN get_v(a) + add(a, 1); END $$;
SELECT nested(2);
SELECT k, get_v(k) FROM acc WHERE k < 4 ORDER BY k;
SELECT k FROM acc WHERE get_v(k) > 80 ORDER BY k;
CREATE FUNCTION from_expr() RETURNS int8 LANGUAGE plpgsql AS $$ DECLARE c int8; BEGIN c := count(*) FROM acc WHERE k < 4; RETURN c; END $$;
SELECT from_expr();
CREATE FUNCTION strict_fn(a int4) RETURNS int4 LANGUAGE plpgsql STRICT AS $$ BEGIN RETURN 1; END $$;
SELECT strict_fn(NULL), strict_fn(2);
CREATE FUNCTION dflt(a int4, b int4 DEFAULT 5) RETURNS int4 LANGUAGE plpgsql AS $$ BEGIN RETURN a + b; END $$;
SELECT dflt(1), dflt(1, 1);
-- differs: not built: named arguments
SELECT dflt(b => 2, a => 1);
CREATE FUNCTION syn() RETURNS int4 LANGUAGE plpgsql AS $$ BEGIN x := ; END $$;
CREATE FUNCTION syn() RETURNS int4 LANGUAGE plpgsql AS $$ BEGIN RETURN 1 END $$;
CREATE FUNCTION syn() RETURNS int4 LANGUAGE plpgsql AS $$ BEGIN IF true THEN RETURN 1; END; $$;
CREATE FUNCTION syn() RETURNS int4 LANGUAGE plpgsql AS $$ BEGIN EXIT; END $$;
CREATE FUNCTION syn() RETURNS int4 LANGUAGE plpgsql AS $$ BEGIN unknown_var := 1; END $$;
CREATE FUNCTION syn() RETURNS int4 LANGUAGE plpgsql AS $$ DECLARE a int4; a text; BEGIN END $$;
CREATE FUNCTION syn() RETURNS int4 LANGUAGE plpgsql AS $$ DECLARE a CONSTANT int4 := 1; BEGIN a := 2; END $$;
CREATE FUNCTION syn() RETURNS nosuchtype LANGUAGE plpgsql AS $$ BEGIN END $$;
CREATE FUNCTION syn() RETURNS int4 LANGUAGE nosuchlang AS $$ BEGIN END $$;
CREATE FUNCTION syn() RETURNS int4 LANGUAGE plpgsql AS $$ BEGIN SELEC 1; END $$;
CREATE FUNCTION syn() RETURNS void LANGUAGE plpgsql AS $$ BEGIN RETURN 1; END $$;
CREATE FUNCTION syn() RETURNS int4 LANGUAGE plpgsql AS $$ BEGIN RETURN NEXT 1; END $$;
CREATE FUNCTION no_dest() RETURNS int4 LANGUAGE plpgsql AS $$ BEGIN SELECT 1; RETURN 1; END $$;
SELECT no_dest();
DROP FUNCTION add(int4, int4);
SELECT add(1, 2);
DROP FUNCTION add(int4, int4);
DROP FUNCTION IF EXISTS add(int4, int4);
DROP FUNCTION fact;
SELECT fact(1);

-- Blocks without a name.
CREATE TABLE noted (k int PRIMARY KEY, v int);
DO $$ DECLARE n int := 3; BEGIN FOR i IN 1..n LOOP INSERT INTO noted VALUES (i, i * i); END LOOP; END $$;
SELECT * FROM noted ORDER BY k;
DO LANGUAGE plpgsql $$ BEGIN UPDATE noted SET v = 0 WHERE k = 2; END $$;
DO 'BEGIN DELETE FROM noted WHERE k = 3; END' LANGUAGE plpgsql;
SELECT * FROM noted ORDER BY k;
DO $$ BEGIN INSERT INTO noted VALUES (4, 4); RAISE EXCEPTION 'no' USING ERRCODE = '22012'; END $$;
DO $$ BEGIN INSERT INTO noted VALUES (4, 4); INSERT INTO noted VALUES (1, 1); EXCEPTION WHEN unique_violation THEN INSERT INTO noted VALUES (5, 5); END $$;
DO $$ BEGIN PERFORM * FROM nowhere; END $$;
DO $$ BEGIN IF found THEN RETURN; END $$;
DO nonsense;
SELECT * FROM noted ORDER BY k;
DROP TABLE noted;
-- Expressions with functions that have run already are compared with one another.
CREATE TABLE called (p int PRIMARY KEY, v int);
INSERT INTO called SELECT g, g % 3 FROM generate_series(1, 20) g;
CREATE FUNCTION inc(k int) RETURNS int LANGUAGE sql AS 'select k + 1';
CREATE FUNCTION down(n int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN IF n <= 0 THEN RETURN 0; END IF; RETURN (SELECT down(n - 1)) + 1; END $$;
SELECT sum(inc(p)) FROM called;
SELECT max(inc(p)), min(inc(p)), sum(inc(p)) FROM called;
SELECT inc(v), count(*) FROM called GROUP BY inc(v) ORDER BY inc(v);
SELECT down(v), count(*) FROM called GROUP BY down(v) HAVING max(down(v)) > 0 ORDER BY down(v);
SELECT max(down(v)), sum(inc(down(v))) FROM called;
SELECT DISTINCT inc(v) FROM called ORDER BY inc(v) DESC;
DROP FUNCTION inc(int);
DROP FUNCTION down(int);
DROP TABLE called;
