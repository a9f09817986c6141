-- Record variables as values; results without columns; patterns that end in an escape.
CREATE TABLE acc (k int PRIMARY KEY, v int, s text);
INSERT INTO acc VALUES (1, 10, 'one'), (2, NULL, 'two'), (3, NULL, NULL);
CREATE FUNCTION is_there(in_k int) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    r record;
    row acc%ROWTYPE;
BEGIN
    IF row IS NOT NULL THEN RETURN 'never'; END IF;
    SELECT * INTO r FROM acc WHERE k = in_k;
    SELECT * INTO row FROM acc WHERE k = in_k;
    IF r IS NULL THEN RETURN 'nothing ' || (row IS NULL) || FOUND; END IF;
    RETURN r.k || ' ' || (r IS NOT NULL) || (row IS NOT NULL) || (row IS NULL) || FOUND;
END $$;
SELECT is_there(1), is_there(2), is_there(3), is_there(4);
CREATE FUNCTION unassigned() RETURNS bool LANGUAGE plpgsql AS $$ DECLARE r record; BEGIN RETURN r IS NULL; END $$;
SELECT unassigned();
CREATE FUNCTION unassigned_not() RETURNS bool LANGUAGE plpgsql AS $$ DECLARE r record; BEGIN RETURN r IS NOT NULL; END $$;
SELECT unassigned_not();
CREATE FUNCTION in_condition() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    r record;
    out text := '';
BEGIN
    FOR r IN SELECT v, s FROM acc ORDER BY k LOOP
        out := out || CASE WHEN r IS NULL THEN 'n' WHEN r IS NOT NULL THEN 'f' ELSE 'p' END;
    END LOOP;
    RETURN out || (SELECT count(*) FROM acc WHERE r IS NULL);
END $$;
SELECT in_condition();
CREATE FUNCTION copies() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    a record;
    b record;
    row acc%ROWTYPE;
    found_before bool;
BEGIN
    SELECT k, s INTO a FROM acc WHERE k = 9;
    found_before := FOUND;
    SELECT k, s INTO a FROM acc WHERE k = 1;
    b := a;
    a.s := 'changed';
    SELECT * INTO row FROM acc WHERE k = 2;
    RETURN b.k || b.s || a.s || found_before || (a = b) || (b = b) || row.k;
END $$;
SELECT copies();
CREATE FUNCTION of_rows() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    a record;
    row acc%ROWTYPE;
    other acc%ROWTYPE;
BEGIN
    a := ROW(1, 'x'::text, 2.5);
    row := (7, 8, 'eight');
    other := row;
    row := NULL;
    RETURN a.f1 || a.f2 || a.f3 || other.k || other.v || other.s || (row IS NULL) || (other.k = a.f1);
END $$;
SELECT of_rows();
CREATE FUNCTION pair(n int, OUT lo int, OUT hi int) LANGUAGE plpgsql AS $$ BEGIN lo := n - 1; hi := n + 1; END $$;
CREATE FUNCTION of_function() RETURNS text LANGUAGE plpgsql AS $$ DECLARE p record; BEGIN p := pair(5); RETURN p.lo || '-' || p.hi; END $$;
SELECT of_function();
CREATE FUNCTION keeps_found() RETURNS bool LANGUAGE plpgsql AS $$
DECLARE
    a record;
    b record;
BEGIN
    SELECT 1 AS x INTO a;
    UPDATE acc SET v = v WHERE k = 99;
    b := a;
    RETURN FOUND;
END $$;
SELECT keeps_found();
CREATE FUNCTION unknown_field() RETURNS int LANGUAGE plpgsql AS $$ DECLARE a record; b record; BEGIN SELECT 1 AS x INTO a; b := a; RETURN b.y; END $$;
SELECT unknown_field();
CREATE FUNCTION not_assigned() RETURNS int LANGUAGE plpgsql AS $$ DECLARE a record; BEGIN RETURN a.y; END $$;
SELECT not_assigned();
SELECT FROM acc;
SELECT FROM acc WHERE k = 1;
SELECT FROM acc UNION ALL SELECT FROM acc;
SELECT count(*) FROM (SELECT FROM acc) q;
SELECT EXISTS (SELECT FROM acc WHERE k = 2) AS x;
SELECT 'abc' LIKE 'abc\' AS x;
SELECT 'abcd' LIKE 'abc\' AS x;
SELECT 'ab' LIKE 'abc\' AS x;
SELECT 'abc' LIKE '%\' AS x;
SELECT '' LIKE '%\' AS x;
SELECT 'abc' LIKE '%b\' AS x;
SELECT 'abc' LIKE 'a%x\' AS x;
SELECT 'abcd' ILIKE 'ABC\' AS x;
SELECT 'abcd' LIKE 'abc#' ESCAPE '#' AS x;
SELECT 'abc' LIKE 'abc\' ESCAPE '' AS x;
SELECT k FROM acc WHERE s LIKE 'on\';
SELECT k FROM acc WHERE s LIKE 'one\';
CREATE FUNCTION add_row(in_k int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN INSERT INTO acc VALUES (in_k, 0, 'added'); RETURN in_k; END $$;
-- differs: a statement's later parts see what a function called in it has written
SELECT add_row(50) AS a, (SELECT count(*) FROM acc) AS n;
SELECT (SELECT count(*) FROM acc) AS n, add_row(51) AS a;
SELECT count(*) FROM acc;
CREATE FUNCTION two() RETURNS TABLE (p int, q int) LANGUAGE sql AS $$ SELECT 1, 2 UNION ALL SELECT 3, 4 $$;
CREATE FUNCTION take_two() RETURNS int LANGUAGE plpgsql AS $$ DECLARE r record; BEGIN r := two(); RETURN r.p; END $$;
SELECT take_two();
SELECT 'a' LIKE '%_\' AS x;
SELECT 'ab' LIKE '%_\' AS x;
SELECT '' LIKE '%_\' AS x;
SELECT 'ab' LIKE '%__\' AS x;
SELECT 'a' LIKE '%__\' AS x;
SELECT 'a' LIKE '%_%\' AS x;
SELECT 'ab' LIKE '%_%_%\' AS x;
SELECT 'a' LIKE '%_%_%\' AS x;
SELECT 'a' LIKE '_%\' AS x;
SELECT 'ab' LIKE '_%\' AS x;
SELECT 'ax' LIKE 'a%_\' AS x;
SELECT 'a' LIKE 'a%_\' AS x;
SELECT 'axy' LIKE '%x_\' AS x;
SELECT 'axyz' LIKE '%x_\' AS x;
SELECT 'abcbc' LIKE '%c%b%_\' AS x;
SELECT 'abc' LIKE '%c%b%_\' AS x;
SELECT 'a' ILIKE '%_\' AS x;
SELECT 'a' LIKE '%_#' ESCAPE '#' AS x;
SELECT 'abcd' LIKE '%_%_%c%' AS x, 'abc' LIKE 'a%_%_%c' AS y, 'axxc' LIKE 'a%_%_%c' AS z;
