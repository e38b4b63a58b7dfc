from no_such_package_with_models import completion


class Env:
    complete = completion
