"""NIS: pam_unix asks the name service, and that asks ypbind and ypserv."""

from backend import EXPIRED, LOCAL, LOGIN, MUST_CHANGE, NOT_PERMITTED, WRONG, BackEnd, groups_end_with_the_files, run
from nis import OPEN, Nis, password_of

NIS = None


def setUpModule():
    global NIS
    NIS = Nis().start()


def tearDownModule():
    NIS.stop()


class ShadowMaps(BackEnd):
    """The hashes are in a map that ypserv shows to ports below 1024 alone."""

    recipe = "nis"
    auth = {"low_ports": "yes"}

    def test_the_right_password_sends(self):
        self.sends("nisok", password_of("nisok"))
        self.sends("nisok", password_of("nisok"), mechanism=LOGIN)

    def test_wrong_and_unknown_and_locked_hear_the_same(self):
        self.refused("nisok", "not it", verdict="reject", phase="auth", code=7)
        self.refused("nobody-here", "not it", verdict="reject", phase="auth", code=10)
        self.refused("nislocked", password_of("nislocked"), verdict="reject", phase="auth", code=7)

    def test_another_case_is_another_name(self):
        self.refused("NISOK", password_of("nisok"), verdict="reject", phase="auth", code=10)

    def test_an_expired_account_is_told_so_with_the_right_password_alone(self):
        self.refused("nisgone", password_of("nisgone"), EXPIRED, verdict="expired", phase="acct", code=13)
        self.refused("nisgone", "not it", WRONG, verdict="reject", phase="auth", code=7)

    def test_an_aged_password_must_be_changed(self):
        self.refused("nisaged", password_of("nisaged"), MUST_CHANGE, verdict="must-change", phase="acct", code=12)
        self.refused("nisaged", "not it", WRONG, verdict="reject", phase="auth", code=7)

    def test_people_of_the_files_send_too(self):
        self.sends(*LOCAL)

    def test_without_the_server_nobody_is_called_unknown_and_it_works_when_it_is_back(self):
        self.addCleanup(lambda: NIS.server.running() or NIS.server.start())

        NIS.server.stop()
        self.unavailable("nisok", password_of("nisok"), phase="auth", code=10)
        self.sends(*LOCAL, within=2)
        NIS.server.start()

        self.sends_again("nisok", password_of("nisok"), within=10)

    def test_without_ypbind_nobody_is_called_unknown_and_it_works_when_it_is_back(self):
        self.addCleanup(lambda: NIS.client.running() or NIS.client.start())

        NIS.client.stop()
        self.unavailable("nisok", password_of("nisok"), phase="auth", code=10)
        self.sends(*LOCAL, within=2)
        NIS.client.start()

        self.sends_again("nisok", password_of("nisok"), within=10)

    def test_a_server_that_hangs_costs_its_own_logins_and_nobody_else_s(self):
        self.outlasts_a_hang("nisok", password_of("nisok"), NIS.server, back_within=10)

    def test_a_ypbind_that_hangs_is_not_missed(self):
        self.addCleanup(NIS.client.resume)

        NIS.client.suspend()

        # Where the server is stands in /var/yp/binding, and that is asked.
        self.sends("nisok", password_of("nisok"), within=2)
        self.refused("nisok", "not it", verdict="reject", phase="auth", code=7)
        self.sends(*LOCAL, within=2)


class WithoutLowPorts(BackEnd):
    recipe = "nis"

    def test_a_shadow_map_is_out_of_reach_and_that_is_nobody_s_wrong_password(self):
        self.unavailable("nisok", password_of("nisok"), phase="auth", code=9)

    def test_a_hash_in_the_passwd_map_needs_no_low_port(self):
        self.sends(OPEN, password_of(OPEN))
        self.refused(OPEN, "not it", verdict="reject", phase="auth", code=7)


class GroupsOfTheRelay(BackEnd):
    """`auth.groups` asks about the groups of everybody, also of people of the files: here they are groups of the files alone."""

    recipe = "nis"
    auth = {"low_ports": "yes", "groups": ["mailusers"]}

    @classmethod
    def setUpClass(cls):
        run("groupadd", "mailusers")
        run("gpasswd", "--members", f"{LOCAL[0]},nisok", "mailusers")
        groups_end_with_the_files("nis")
        super().setUpClass()

    def test_a_group_of_the_files_admits_its_members_from_either_source(self):
        self.sends(*LOCAL)
        self.sends("nisok", password_of("nisok"))
        self.refused("demo", "demo password", NOT_PERMITTED, verdict="not-permitted", phase="identity", reason="not-in-groups")

    def test_a_server_that_hangs_holds_up_no_member_of_a_group_of_the_files(self):
        self.outlasts_a_hang("nisok", password_of("nisok"), NIS.server, back_within=10)
