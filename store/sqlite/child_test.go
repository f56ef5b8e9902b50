package sqlite_test

const roleVariable = "CONVERGE_SQLITE_TEST_ROLE"

func child(role string) int { return 2 }
