"""Passwords in a database or in a file of their own: pam_mysql, pam_userdb, pam_pwdfile. The people have Unix accounts without a password."""

from pathlib import Path

import backend
import bed
import mariadb
from backend import EXPIRED, LOCAL, LOGIN, SLACK, WRONG, BackEnd, run
from people import person

USERDB = Path("/etc/smtp-users.db")
PWDFILE = Path("/etc/smtp.passwd")
UNIX_PORT = bed.STARTTLS + 1


class Mysql(BackEnd):
    recipe = "mysql"

    @classmethod
    def setUpClass(cls):
        cls.server = mariadb.table()
        cls.addClassCleanup(cls.server.stop)
        backend.install("passwd", "smtp-unix")
        super().setUpClass()

    @classmethod
    def listen(cls):
        """One listener more, for people who are in no table."""
        return [*super().listen(), {"name": "unix", "address": f"127.0.0.1:{UNIX_PORT}", "tls": "starttls", "service": "smtp-unix"}]

    def test_the_right_password_sends(self):
        self.sends("sqlok", mariadb.password_of("sqlok"))
        self.sends("sqlok", mariadb.password_of("sqlok"), mechanism=LOGIN)

    def test_wrong_and_unknown_and_locked_hear_the_same(self):
        self.refused("sqlok", "not it", verdict="reject", phase="auth", code=7)
        self.refused("nobody-here", "not it", verdict="reject", phase="auth", code=10)
        self.refused("sqllocked", mariadb.password_of("sqllocked"), verdict="reject", phase="auth", code=7)

    def test_a_name_is_no_part_of_a_statement(self):
        for name in ("sqlok' or '1'='1", 'sqlok" or "1"="1', "sqlok\\", "sqlok'#", "%", "sql_k"):
            self.refused(name, mariadb.password_of("sqlok"), verdict="reject", phase="auth", code=10)

    def test_another_case_is_another_name(self):
        self.refused("SQLOK", mariadb.password_of("sqlok"), verdict="reject", phase="auth", code=10)

    def test_an_expired_account_or_password_is_told_so_with_the_right_password_alone(self):
        for name, code in (("sqlgone", 13), ("sqlaged", 27)):
            self.refused(name, mariadb.password_of(name), EXPIRED, verdict="expired", phase="acct", code=code)
            self.refused(name, "not it", WRONG, verdict="reject", phase="auth", code=7)

    def test_a_database_that_is_away_is_nobody_s_wrong_password_and_works_when_it_is_back(self):
        self.addCleanup(lambda: self.server.running() or self.server.start())

        self.server.stop()
        self.unavailable("sqlok", mariadb.password_of("sqlok"), phase="auth", code=9)
        self.unavailable("nobody-here", "not it", phase="auth", code=9)
        self.server.start()

        self.sends_again("sqlok", mariadb.password_of("sqlok"), within=5)

    def test_a_database_that_hangs_costs_its_own_logins_and_nobody_else_s_and_works_when_it_is_back(self):
        self.addCleanup(self.server.resume)
        # From here before: as a stranger he would share what one network has with those whose logins hang.
        self.sends(*LOCAL, port=UNIX_PORT)

        self.server.suspend()
        with self.hanging("sqlok", mariadb.password_of("sqlok"), count=12):  # more than there are workers
            self.sends(*LOCAL, port=UNIX_PORT, within=2)
        self.unavailable("sqlok", mariadb.password_of("sqlok"), phase="worker", reason="deadline")
        self.server.resume()

        self.sends_again("sqlok", mariadb.password_of("sqlok"), within=5)


class InFiles(BackEnd):
    """What the two modules that read files have in common."""

    def right_wrong_and_unknown(self, name, password):
        self.sends(name, password)
        self.sends(name, password, mechanism=LOGIN, port=bed.IMPLICIT)
        self.refused(name, "not it", WRONG, verdict="reject", phase="auth", code=7)
        self.refused("nobody-here", "not it", WRONG, verdict="reject", phase="auth", code=10)
        self.refused(name.upper(), password, WRONG, verdict="reject", phase="auth", code=10)
        self.refused(*bed.QUICK, WRONG, verdict="reject", phase="auth", code=10)  # has a Unix password, and is not in the file

    def without_the_file(self, file, name, password):
        aside = file.with_suffix(".aside")
        self.addCleanup(lambda: aside.exists() and aside.rename(file))

        file.rename(aside)
        self.unavailable(name, password, within=SLACK, phase="auth")
        aside.rename(file)

        self.sends(name, password)


class Userdb(InFiles):
    recipe = "userdb"

    @classmethod
    def setUpClass(cls):
        person("userdbok", None)
        hashed = run("openssl", "passwd", "-6", "userdb password").strip()
        run("db_load", "-T", "-t", "hash", USERDB, input=f"userdbok\n{hashed}\n")
        USERDB.chmod(0o600)
        super().setUpClass()

    def test_the_right_password_sends_and_no_other(self):
        self.right_wrong_and_unknown("userdbok", "userdb password")

    def test_a_database_that_is_not_there_is_nobody_s_wrong_password(self):
        self.without_the_file(USERDB, "userdbok", "userdb password")


class Pwdfile(InFiles):
    recipe = "pwdfile"

    @classmethod
    def setUpClass(cls):
        person("pwdfileok", None)
        person("pwdfilelocked", None)
        hashed = run("openssl", "passwd", "-6", "pwdfile password").strip()
        PWDFILE.write_text(f"pwdfileok:{hashed}\npwdfilelocked:!{hashed}\n")
        PWDFILE.chmod(0o600)
        super().setUpClass()

    def test_the_right_password_sends_and_no_other(self):
        self.right_wrong_and_unknown("pwdfileok", "pwdfile password")

    def test_a_hash_with_a_mark_before_it_is_locked(self):
        self.refused("pwdfilelocked", "pwdfile password", WRONG, verdict="reject", phase="auth", code=7)

    def test_a_file_that_is_not_there_is_nobody_s_wrong_password(self):
        self.without_the_file(PWDFILE, "pwdfileok", "pwdfile password")
