# Does what it is told: runs the code that it finds in FOLDER/PID.ask and writes what the last line gives, or what it
# raised, to FOLDER/PID.answer.
import ast, os, sys, time

folder = sys.argv[-1]
names = {"folder": folder}


def obey(code):
    tree = ast.parse(code)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "told", "exec"), names)
    return repr(eval(compile(ast.Expression(last.value), "told", "eval"), names)) if last else "None"


while True:
    # Its number as the host knows it, which need not be the one that it knows itself.
    base = f"{folder}/{os.readlink('/proc/self')}"
    try:
        with open(base + ".ask") as file:
            code = file.read()
        os.unlink(base + ".ask")
    except FileNotFoundError:
        time.sleep(0.001)
        continue
    try:
        result = obey(code)
    except BaseException as error:
        result = f"raised {error!r}"
    with open(base + ".answer.new", "w") as file:
        file.write(result)
    os.rename(base + ".answer.new", base + ".answer")
